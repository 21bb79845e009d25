"""The command `deepcache-trt`: parses and calls."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deepcache_trt import __version__
from deepcache_trt.commands.bench import bench
from deepcache_trt.commands.evaluate import evaluate
from deepcache_trt.commands.options import (
    AllowPickle,
    AsJson,
    Backend,
    Branch,
    Dtype,
    Model,
    Offline,
    Revision,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.commands.profile import profile
from deepcache_trt.commands.tune import tune
from deepcache_trt.errors import DeepCacheError, UnsupportedError

app = typer.Typer(
    name="deepcache-trt",
    help="Run cached diffusion models: the U-Net as two compiled graphs behind an ordinary diffusers pipeline.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Typer's usage errors: click's class or that of its own copy of click, which has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__base__

_INTERRUPTED = 130  # what a shell reports for Ctrl-C; typer returns it too


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    if version:
        typer.echo(f"deepcache-trt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level="INFO" if verbose else "WARNING")


@app.command()
def build(
    model: Model,
    backend: Backend = "auto",
    branch: Branch = 0,
    dtype: Dtype = None,
    component: Annotated[
        list[str] | None, typer.Option(help="unet, vae, text_encoder, …; may be repeated. [default: all]")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Compute capability of a GPU elsewhere, as sm86 (an A5000); tensorrt-rtx only.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Pixels that TensorRT builds for: 1024, 768x1024 (height x width), 512-1024; repeatable. "
            "[default: the model's]"
        ),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option(help="Images of one call that it builds for: 1, 1-4; repeatable. [default: 1]")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Let TensorRT's engines take other weights, for LoRAs.")
    ] = False,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Of TensorRT's builder. [default: TensorRT's]")
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(min=0.001, help="GiB of scratch memory that TensorRT may use. [default: all]")
    ] = None,
    store: StoreFolder = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The real architecture with seeded weights: needs no download.")
    ] = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Build a model's engines, full and shallow; what the store has already is not built again."""
    from deepcache_trt.builder.engines import build_variants
    from deepcache_trt.builder.model_source import ModelSource, find_components, random_components
    from deepcache_trt.builder.shapes import shapes_from_text
    from deepcache_trt.builder.target import Target
    from deepcache_trt.engines import backends
    from deepcache_trt.engines.backend import BuildOptions
    from deepcache_trt.progress import quiet_libraries, shown

    quiet_libraries()
    device = backends.best_device(backend) if target is None else "cuda"
    chosen = Target(
        backend=backends.resolve(backend, device) if target is None else backends.resolve_ahead(backend, target),
        store=_store(store),
        shapes=shapes_from_text(size or (), batch or ()),
        capability=target,
        options=BuildOptions(
            optimization_level=optimization_level,
            workspace_bytes=None if workspace is None else int(workspace * 2**30),
            refittable=refit,
        ),
    )
    given: dict[str, Any] = {"--size": size, "--batch": batch, "--refit": refit or None}
    given |= {"--optimization-level": optimization_level, "--workspace": workspace}
    ignored = [option for option, value in given.items() if value is not None]
    if ignored and not chosen.backend.compiled:
        raise DeepCacheError(f"backend '{chosen.backend}' takes every shape as it is; leave {', '.join(ignored)} out")
    dtype, parts = backends.dtype_or_default(dtype, device), component or ()
    if random_weights:
        components = random_components(model, dtype=dtype, parts=parts)
    else:
        source = ModelSource(
            model=model, revision=revision, variant=variant, offline=offline, allow_pickle=allow_pickle
        )
        components = find_components(source, dtype=dtype, parts=parts)
    for part in components:
        for name, artefact in build_variants(part, branch, chosen, progress=shown).items():
            typer.echo(f"{part.title} {name}: {chosen.backend} engine ({part.dtype}) in {artefact.folder}")


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Argument(help="One or several prompts; each gives an image.")],
    model: Model = "digits",
    out: Annotated[Path, typer.Option(help="The PNG to write; several images get -0, -1, … before the suffix.")] = Path(
        "image.png"
    ),
    negative: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale. [default: the pipeline's]")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    seed: Annotated[int, typer.Option(help="Of the first image; the following ones count up.")] = 0,
    plan: Annotated[
        Path | None, typer.Option(help="A plan file, as `deepcache-trt tune` writes it, instead of the next options.")
    ] = None,
    interval: Annotated[
        int | None, typer.Option(help="One step in this many is full; 1 caches nothing. [default: 3]")
    ] = None,
    branch: Annotated[
        int | None, typer.Option(help="The skip connection at which the shallow layers begin. [default: 0]")
    ] = None,
    skip_mode: Annotated[str | None, typer.Option(help="uniform, quad or quad_center. [default: uniform]")] = None,
    skip_interval: Annotated[
        int | None, typer.Option(help="Of the cached steps, leave each of this many out. [default: none]")
    ] = None,
    forecast: Annotated[
        str | None, typer.Option(help="taylor1: extrapolate what is reused. [default: reuse it as it is]")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    store: StoreFolder = None,
    no_build: Annotated[bool, typer.Option("--no-build", help="Refuse to build a missing engine.")] = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Draw images with a cached pipeline, building its engines at first use."""
    import torch

    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.engines import backends
    from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline
    from deepcache_trt.progress import quiet_libraries

    if (height is None) != (width is None):
        raise DeepCacheError("--height or --width alone is ignored by some pipelines of diffusers; give both")
    quiet_libraries()
    device = backends.best_device(backend)
    source = ModelSource(model=model, revision=revision, variant=variant, offline=offline, allow_pickle=allow_pickle)
    caching = {"plan": plan, "cache_interval": interval, "cache_branch_id": branch, "skip_mode": skip_mode}
    caching |= {"skip_interval": skip_interval, "forecast": forecast}
    pipe = DeepCachePipeline.from_pretrained(
        model,
        dtype=getattr(torch, backends.dtype_or_default(dtype, device)),
        backend=backend,
        store=store,
        build="never" if no_build else "auto",
        **{name: value for name, value in caching.items() if value is not None},
        **source.pretrained_arguments(),
    ).to(device)
    pipe.set_progress_bar_config(disable=None)  # where stderr is no terminal
    sizes = {"height": height, "width": width, "guidance_scale": guidance}
    images = _draw(
        pipe,
        prompt=prompt,
        negative_prompt=None if negative is None else [negative] * len(prompt),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompt))],
        **{name: value for name, value in sizes.items() if value is not None},
    )
    for path, image in zip(_paths(out, len(images)), images, strict=True):
        _save(image, path)
        typer.echo(str(path))


@app.command()
def inspect(store: StoreFolder = None, as_json: AsJson = False) -> None:
    """List what the store holds: graphs with their taps, engines with their shapes, sizes and operations."""
    from deepcache_trt.benchmarks.counting.inventory import inventory, inventory_tables

    found = inventory(_store(store))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(*inventory_tables(found))


app.command()(profile)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell which backends work on this machine, and what to install for those that do not."""
    from rich.markup import escape
    from rich.table import Table

    from deepcache_trt.engines import backends

    rows = backends.probe_all()
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
        return
    table = Table("backend", "device", "works", "detail")
    for row in rows:
        table.add_row(row.name, row.device, "yes" if row.works else "no", escape(row.detail))  # it may hold [cpu]
    _print(table)


app.command("bench")(bench)
app.command("eval")(evaluate)
app.command("tune")(tune)


def main() -> None:
    """Run the command; what the user can mend ends in one line and exit code 2, Ctrl-C in 130."""
    try:
        code = app(prog_name="deepcache-trt", standalone_mode=False)
    except DeepCacheError as error:
        _fail(str(error))
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message().rstrip('.')}; see {error.ctx.command_path} --help")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(code or 0)


def _fail(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _store(folder: Path | None) -> Any:
    from deepcache_trt.engines.store import Store, default_root

    return Store(folder or default_root())


def _draw(pipe: Any, **arguments: Any) -> list[Any]:
    from inspect import signature

    if "prompt" not in signature(type(pipe).__call__).parameters:
        raise UnsupportedError(
            f"a {type(pipe).__name__} takes no prompt, which is all that `generate` gives it; "
            f"call DeepCachePipeline.from_pretrained in Python"
        )
    try:
        return pipe(**arguments).images
    except DeepCacheError:
        raise
    except ValueError as error:  # how diffusers refuses an argument
        raise DeepCacheError(f"{type(pipe).__name__} refuses this: {error}") from error


def _save(image: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except (OSError, ValueError) as error:
        raise DeepCacheError(f"cannot write {path}: {error}; choose another --out") from error


def _paths(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(count)]


def _print(*renderables: Any) -> None:
    from rich.console import Console

    console = Console()
    for renderable in renderables:
        console.print(renderable)


if __name__ == "__main__":
    main()
