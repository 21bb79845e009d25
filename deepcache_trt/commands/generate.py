"""`deepcache-trt generate`: images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deepcache_trt.commands.typed.options import (
    AllowPickle,
    Backend,
    CalibrationPrompts,
    Config,
    Dtype,
    Guidance,
    Interval,
    Model,
    Offline,
    Plan,
    Precision,
    Quantize,
    Revision,
    SkipInterval,
    SkipMode,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.commands.typed.output import check_out
from deepcache_trt.errors import DeepCacheError, UnsupportedError


def generate(
    prompt: Annotated[list[str], typer.Argument(help="One or several prompts; each gives an image.")],
    model: Model = "digits",
    out: Annotated[Path, typer.Option(help="The PNG to write; several images get -0, -1, … before the suffix.")] = Path(
        "image.png"
    ),
    negative: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
    guidance: Guidance = None,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image; the following ones count up.")] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Of diffusers, as unipc or ddim,timestep_spacing=trailing. [default: the model's]"),
    ] = None,
    plan: Plan = None,
    interval: Interval = None,
    branch: Annotated[
        int | None, typer.Option(help="The skip connection at which the shallow layers begin. [default: 0]")
    ] = None,
    skip_mode: SkipMode = None,
    skip_interval: SkipInterval = None,
    forecast: Annotated[
        str | None, typer.Option(help="taylor1: extrapolate what is reused. [default: reuse it as it is]")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    precision: Precision = None,
    quantize: Quantize = None,
    calibration_prompts: CalibrationPrompts = None,
    store: StoreFolder = None,
    no_build: Annotated[bool, typer.Option("--no-build", help="Refuse to build a missing engine.")] = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Draw images with a cached pipeline.

    Its engines are built at first use; `deepcache-trt build` does that before.
    """
    import torch

    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.engines import backends
    from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline
    from deepcache_trt.progress import quiet_libraries
    from deepcache_trt.samplers import parse_sampler

    if (height is None) != (width is None):
        raise DeepCacheError("--height or --width alone is ignored by some pipelines of diffusers; give both")
    check_out(out)
    _check_format(out)
    quiet_libraries()
    device = backends.best_device(backend)
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    caching: dict[str, Any] = {
        "plan": plan,
        "cache_interval": interval,
        "cache_branch_id": branch,
        "skip_mode": skip_mode,
    }
    caching |= {"skip_interval": skip_interval, "forecast": forecast}
    caching |= {"precision": precision, "quantize": quantize, "calibration_prompts": calibration_prompts}
    pipe = DeepCachePipeline.from_pretrained(
        model,
        dtype=getattr(torch, backends.dtype_or_default(dtype, device)),
        backend=backend,
        store=store,
        build="never" if no_build else "auto",
        **{name: value for name, value in caching.items() if value is not None},
        **source.pretrained_arguments(),
    ).to(device)
    if scheduler is not None:
        pipe.scheduler = parse_sampler(scheduler, pipe.scheduler).scheduler(pipe.scheduler)
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


def _draw(pipe: Any, **arguments: Any) -> list[Any]:
    from inspect import signature

    if "prompt" not in signature(type(pipe).__call__).parameters:
        raise UnsupportedError(
            f"a {type(pipe).__name__} takes no prompt, which is all that `generate` gives it; "
            f"call DeepCachePipeline.from_pretrained in Python"
        )
    try:
        images: list[Any] = pipe(**arguments).images
    except DeepCacheError:
        raise
    except ValueError as error:  # how diffusers refuses an argument
        raise DeepCacheError(f"{type(pipe).__name__} refuses this: {error}") from error
    return images


def _check_format(out: Path) -> None:
    """Raise DeepCacheError where no picture can be written under a name like this, before any is drawn."""
    from PIL import Image

    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        ending = f"{out.suffix} is no format that Pillow writes" if out.suffix else "there is no suffix"
        raise DeepCacheError(
            f"--out {out} does not say how to write pictures: {ending}; write --out {out.with_suffix('.png')}, for one"
        )


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
