"""`deepcache-trt sample`: many images of a model without prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepcache_trt.commands.typed.options import (
    AllowPickle,
    Backend,
    Config,
    Dtype,
    Guidance,
    Interval,
    Model,
    Offline,
    Plan,
    RandomWeights,
    Revision,
    SkipInterval,
    SkipMode,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.errors import DeepCacheError

if TYPE_CHECKING:
    from deepcache_trt.runtime.policies import Policy


def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="A folder for PNGs named by their index, or a .npz.")],
    images: Annotated[int, typer.Option(min=1, help="How many.")] = 16,
    first: Annotated[int, typer.Option(min=0, help="The index of the first one.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images that are drawn together.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of image 0; that of image i is this + i.")] = 0,
    steps: Annotated[int, typer.Option(help="Denoising steps, of DDIM.")] = 100,
    eta: Annotated[float, typer.Option(help="0 is DDIM, 1 draws as much noise as DDPM.")] = 0.0,
    skip_type: Annotated[
        str, typer.Option(help="How timesteps are spaced, as beside the paper of DDIM: uniform or quad.")
    ] = "uniform",
    classes: Annotated[
        str | None, typer.Option(help="Of a model of classes: 207,360 in turn by the index, or all.")
    ] = None,
    guidance: Guidance = None,
    guided_channels: Annotated[
        int | None,
        typer.Option(help="Of a DiT's latents: the first ones, as its authors guide 3. [default: all]"),
    ] = None,
    plan: Plan = None,
    interval: Interval = None,
    branch: Annotated[
        int | None, typer.Option(help="The skip connection at which the shallow layers begin. [default: 0]")
    ] = None,
    paper_branch: Annotated[
        int | None, typer.Option(help="The same as the paper of DeepCache counts, from 1; it has 3 for DDPM.")
    ] = None,
    skip_mode: SkipMode = None,
    power: Annotated[float | None, typer.Option("--pow", help="Of quad and quad_center. [default: the mode's]")] = None,
    center: Annotated[
        int | None, typer.Option(help="Of quad_center: the step near which most are full. [default: the mode's]")
    ] = None,
    skip_interval: SkipInterval = None,
    forecast: Annotated[
        str | None, typer.Option(help="taylor1: extrapolate what is reused. [default: reuse it as it is]")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    store: StoreFolder = None,
    no_build: Annotated[bool, typer.Option("--no-build", help="Refuse to build a missing engine.")] = False,
    random_weights: RandomWeights = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Draw many images with a model without prompts.

    That is one of classes, as DiT, or without conditions, as DDPM.

    Image i is the same in whichever run it is drawn. A run that was killed goes on where it was when it is given the
    same command again.
    """
    import torch

    from deepcache_trt.benchmarks.sampling.drawer import Drawer, Sampling, load
    from deepcache_trt.benchmarks.sampling.run import sample as draw
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.commands.typed.output import tell
    from deepcache_trt.engines import backends
    from deepcache_trt.progress import quiet_libraries, shown

    sampling = Sampling(
        seed=seed,
        steps=steps,
        eta=eta,
        skip_type=skip_type,
        guidance=guidance,
        guided_channels=guided_channels,
        classes=_classes(classes),
    )
    caching: dict[str, Any] = {"cache_interval": interval, "skip_mode": skip_mode, "pow": power, "center": center}
    caching |= {"cache_branch_id": _branch(branch, paper_branch), "skip_interval": skip_interval, "forecast": forecast}
    policy = _policy(plan, {name: value for name, value in caching.items() if value is not None})
    quiet_libraries()
    device = backends.best_device(backend)
    precision = backends.dtype_or_default(dtype, device)
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    options = {"policy": policy, "backend": backend, "store": store, "build": "never" if no_build else "auto"}

    def drawer() -> Drawer:
        weights = {"random_weights": random_weights, "dtype": getattr(torch, precision)}
        return Drawer(load(source, device=device, options=options, **weights), sampling)

    origin: dict[str, Any] = {
        "random_weights": random_weights,
        "model": model,
        "revision": revision,
        "variant": variant,
        "config": config,
    }
    engines = {"backend": str(backends.resolve(backend, device)), "dtype": precision, "caching": policy.to_json()}
    indices = range(first, first + images)
    labels = [sampling.label(index) for index in indices] if sampling.classes else []
    there = draw(
        out,
        {**origin, **engines, **sampling.record()},
        indices,
        batch=batch,
        labels=labels,
        load=drawer,
        progress=shown,
    )
    if there:
        tell(f"{there:,} of {images:,} images were there already")
    typer.echo(str(out))


def _classes(given: str | None) -> tuple[int, ...]:
    from deepcache_trt.benchmarks.sampling.drawer import ALL_CLASSES

    if given is None or given == "all":
        return ALL_CLASSES if given else ()
    try:
        return tuple(int(label) for label in given.split(","))
    except ValueError as error:
        raise DeepCacheError(f"--classes {given!r} is no list of numbers; write it as 207,360, or all") from error


def _branch(branch: int | None, paper_branch: int | None) -> int | None:
    """The paper's branch m is the skip connection m - 1."""
    if paper_branch is None:
        return branch
    if branch is not None:
        raise DeepCacheError("--branch and --paper-branch name the same in two ways; give one of them")
    if paper_branch < 1:
        raise DeepCacheError(f"--paper-branch {paper_branch} is below 1, its first; --branch counts from 0")
    return paper_branch - 1


def _policy(plan: Path | None, caching: dict[str, Any]) -> "Policy":
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.runtime.policies.plan_file import read_policy

    return DeepCache(**caching) if plan is None else read_policy(plan, caching)
