"""`deepcache-trt batch`: pictures of a file of prompts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import Backend, Dtype, Guidance, Model, StoreFolder


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """As it is typed."""
    yield "batch", batch


def batch(
    prompts: Annotated[Path, typer.Argument(help="One a line, or PartiPrompts' .tsv, or COCO's .json.")],
    out: Annotated[Path, typer.Option(help="A folder: images, and samples.jsonl with a line for each.")],
    model: Model = "digits",
    interval: Annotated[int, typer.Option(help="One step in this many is full; 1 caches nothing.")] = 3,
    branch: Annotated[int, typer.Option(help="The skip connection at which the shallow layers begin.")] = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Guidance = None,
    seed: Annotated[int, typer.Option(help="Of picture 0; that of picture i is this + i.")] = 0,
    seeds: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    size: Annotated[int, typer.Option("--batch", help="Pictures of a call.")] = 8,
    ray: Annotated[str, typer.Option(help="auto, or the address of a cluster.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="[default: one for each GPU]")] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    store: StoreFolder = None,
) -> None:
    """Draw a file of prompts on workers of Ray Data.

    A run that was killed goes on where it was when it is given the same command again, and draws nothing twice.
    """
    from deepcache_trt.benchmarks.experiments.declared import experiments
    from deepcache_trt.benchmarks.experiments.experiment import Workers
    from deepcache_trt.benchmarks.experiments.run import run
    from deepcache_trt.commands.typed.output import tell, typed_command
    from deepcache_trt.progress import quiet_libraries, shown

    quiet_libraries()
    generate = experiments()["generate"]
    options = generate.options(
        prompt_file=prompts,
        model=model,
        interval=(interval,),
        branch=(branch,),
        steps=steps,
        guidance=guidance,
        seed=seed,
        seeds=seeds,
        batch=size,
        backend=backend,
        dtype=dtype,
    )
    run(
        generate,
        options,
        out,
        store=store,
        workers=Workers(address=ray, count=workers),
        command=typed_command(),
        progress=shown,
        tell=tell,
    )
    typer.echo(str(out))
