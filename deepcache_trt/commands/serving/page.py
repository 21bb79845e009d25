"""`deepcache-trt ui`: a page in the browser."""

import os
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import Backend, StoreFolder
from deepcache_trt.errors import DeepCacheError, first_line


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """As it is typed."""
    yield "ui", ui


def ui(
    model: Annotated[
        list[str] | None, typer.Option(help="That the page offers; repeatable, others can be typed. [default: digits]")
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 shows it to other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 7860,
    backend: Backend = "auto",
    store: StoreFolder = None,
) -> None:
    """Show a page that compares plain and cached pictures."""
    from deepcache_trt.models.catalogue import check_name
    from deepcache_trt.progress import quiet_libraries

    models = model or ["digits"]
    for each in models:
        check_name(each)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would tell others of every start
    try:
        from deepcache_trt.ui.page import start
    except ImportError as error:
        raise DeepCacheError(f"the page needs Gradio ({first_line(error)}); pip install 'deepcache-trt[ui]'") from error
    quiet_libraries()
    start(models, backend=backend, store=store, host=host, port=port)
