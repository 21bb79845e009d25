"""What a long operation tells the person who waits for it: `with progress("tracing the U-Net") as report: …`."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Report(Protocol):
    """How far a stage is, told as often as the stage likes; a stage that cannot know it never calls this."""

    def __call__(self, *, done: float, total: float, detail: str = "") -> None:
        """`done` of `total` is complete, in any unit; `detail` names what goes on now."""
        ...


Progress = Callable[[str], AbstractContextManager[Report]]

_log = logging.getLogger(__name__)

_SETTING = "DEEPCACHE_TRT_PROGRESS"


def _unshown(*, done: float, total: float, detail: str = "") -> None:
    """A log has no place for a fraction."""


@contextmanager
def logged(stage: str) -> Iterator[Report]:
    """Report a stage to the log only."""
    started = time.perf_counter()
    yield _unshown
    _log.info("%s: %.1f s", stage, time.perf_counter() - started)


@contextmanager
def shown(stage: str) -> Iterator[Report]:
    """Report a stage on the terminal: a spinner with the elapsed time while it runs, one line when it is done.

    A stage that reports how far it is gets a bar and the remaining time. With `DEEPCACHE_TRT_PROGRESS=0` in the
    environment it is only logged.
    """
    if os.environ.get(_SETTING) == "0":
        with logged(stage) as unshown:
            yield unshown
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    started = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    left = TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(stage, total=None)

        def report(*, done: float, total: float, detail: str = "") -> None:
            known = (BarColumn(bar_width=24), TaskProgressColumn(), left, TextColumn("{task.fields[detail]}"))
            bar.columns = (*columns, *known)
            bar.update(task, completed=done, total=total, detail=f"[dim]{escape(detail)}[/dim]")

        with logged(stage):
            yield report
    console.print(f"[green]✓[/green] {stage} [dim]{time.perf_counter() - started:.1f} s[/dim]")


def as_in_diffusers(settings: Mapping[str, Any]) -> Progress:
    """`shown`, or `logged` where someone wants no progress bars.

    Args:
        settings: of a pipeline's `set_progress_bar_config`.
    """
    from diffusers.utils import logging as diffusers_logging

    is_wanted = _is_terminal_ours or diffusers_logging.is_progress_bar_enabled()
    return shown if is_wanted and not settings.get("disable") else logged


_is_terminal_ours = False


def quiet_libraries() -> None:
    """Leave the terminal to a command of ours: no loading bars, no hints about packages that it does not need."""
    global _is_terminal_ours
    import diffusers
    import transformers

    _is_terminal_ours = True
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
