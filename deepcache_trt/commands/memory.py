"""`deepcache-trt memory`: what a generation holds."""

from typing import Annotated, Literal

import typer

from deepcache_trt.commands.typed.options import Branch


def memory(
    model: Annotated[str, typer.Option(help="A catalogue name: sd15, sd21, sdxl, svd, …")] = "svd",
    size: Annotated[
        str | None, typer.Option(help="Pixels: 512, or 576x1024 (height x width). [default: the model's]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images or videos at a time, with guidance.")] = 1,
    frames: Annotated[
        list[int] | None, typer.Option(min=1, help="Of a video; repeatable: a column for each. [default: the model's]")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Of weights and activations.")
    ] = "float16",
    branch: Branch = 0,
) -> None:
    """Add up what a generation holds in memory.

    The weights of its engines, their static buffers and the cached feature, in MB of 10⁶ bytes, as Markdown. It follows
    from the shapes alone: nothing is downloaded, built or run. What engines take while they run comes on top.
    """
    from deepcache_trt.benchmarks.counting.memory import generations, table

    columns = generations(model, size=size, batch=batch, frames=frames or (), dtype=dtype, branch=branch)
    typer.echo(table(columns))
