"""What a long operation tells the person who waits for it: `with progress("tracing the U-Net"): …`."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str], AbstractContextManager[None]]

_log = logging.getLogger(__name__)


@contextmanager
def logged(stage: str) -> Iterator[None]:
    """Report a stage to the log only."""
    started = time.perf_counter()
    yield
    _log.info("%s: %.1f s", stage, time.perf_counter() - started)


@contextmanager
def shown(stage: str) -> Iterator[None]:
    """Report a stage on the terminal: a spinner with the elapsed time while it runs, one line when it is done."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    started = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(stage, total=None)
        with logged(stage):
            yield
    console.print(f"[green]✓[/green] {stage} [dim]{time.perf_counter() - started:.1f} s[/dim]")


def quiet_libraries() -> None:
    """Leave the terminal to a command of ours: no loading bars, no hints about packages that it does not need."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
