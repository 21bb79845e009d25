"""`deepcache-trt build`: engines ahead of time."""

from typing import Annotated, Any

import typer

from deepcache_trt.commands.typed.options import (
    AllowPickle,
    Backend,
    CalibrationPrompts,
    Config,
    Dtype,
    Model,
    Offline,
    Plan,
    Precision,
    Quantize,
    RandomWeights,
    Revision,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.errors import DeepCacheError


def build(
    model: Model,
    backend: Backend = "auto",
    plan: Plan = None,
    branch: Annotated[
        int | None,
        typer.Option(help="The skip connection at which the shallow layers begin. [default: 0, the cheapest]"),
    ] = None,
    interval: Annotated[
        int | None, typer.Option(help="For --precision, whose ranges are those of a schedule. [default: 3]")
    ] = None,
    segments: Annotated[
        bool | None,
        typer.Option(help="Pieces of the model that share all weights, not an engine a variant. [default: the plan's]"),
    ] = None,
    dtype: Dtype = None,
    precision: Precision = None,
    quantize: Quantize = None,
    calibration_prompts: CalibrationPrompts = None,
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
        int | None, typer.Option(min=0, max=5, help="How long to look for fast kernels. [default: the backend's]")
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(min=0.001, help="GiB of scratch memory that TensorRT may use. [default: all]")
    ] = None,
    store: StoreFolder = None,
    random_weights: RandomWeights = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Build a model's engines ahead of time.

    Those are one for each variant of the policy, and those of the VAE and the text encoders. What the store has already
    is not built again.
    """
    from deepcache_trt.builder.engines import build_pieces
    from deepcache_trt.builder.model_source import ModelSource, find_components, random_components
    from deepcache_trt.builder.quantized.quantizing import check_owners
    from deepcache_trt.builder.shapes import shapes_from_text
    from deepcache_trt.builder.target import Target
    from deepcache_trt.engines import backends
    from deepcache_trt.engines.backend import BuildOptions
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.export.precision import precision_of
    from deepcache_trt.pipelines.calibrating.checkpoint import quantized_checkpoint
    from deepcache_trt.pipelines.engine_options import EngineOptions
    from deepcache_trt.progress import quiet_libraries, shown
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.runtime.policies.plan_file import read_policy

    quiet_libraries()
    said = {"cache_branch_id": branch, "cache_interval": interval}
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    policy = DeepCache(**given) if plan is None else read_policy(plan, given)
    device = backends.best_device(backend) if target is None else "cuda"
    chosen = Target(
        backend=backends.resolve(backend, device) if target is None else backends.resolve_ahead(backend, target),
        store=Store(store or default_root()),
        shapes=shapes_from_text(size or (), batch or ()),
        capability=target,
        segments=segments,
        options=BuildOptions(
            optimization_level=optimization_level,
            workspace_bytes=None if workspace is None else int(workspace * 2**30),
            refittable=refit,
        ),
    )
    quantized = precision_of(precision)
    if quantized is not None:
        chosen.backend.check_dtype(quantized.name)  # before a pipeline is loaded to be calibrated
    of_shapes: dict[str, Any] = {"--size": size, "--batch": batch, "--refit": refit or None}
    of_builds = {"--optimization-level": optimization_level, "--workspace": workspace}
    given = (of_shapes if not chosen.backend.compiled else {}) | (of_builds if not chosen.backend.options else {})
    ignored = [option for option, value in given.items() if value is not None]
    if ignored and not chosen.backend.compiled:
        raise DeepCacheError(f"backend '{chosen.backend}' takes every shape as it is; leave {', '.join(ignored)} out")
    dtype, parts = backends.dtype_or_default(dtype, device), component or ()
    if random_weights:
        source = None
        components = random_components(model, dtype=dtype, parts=parts)
    else:
        source = ModelSource(
            model=model,
            revision=revision,
            variant=variant,
            config=config,
            offline=offline,
            allow_pickle=allow_pickle,
        )
        components = find_components(source, dtype=dtype, parts=parts)
    options = EngineOptions(
        store=chosen.store.root,
        precision=precision,
        quantize=None if quantize is None else tuple(quantize),
        calibration_prompts=calibration_prompts,
    )
    check_owners(options.quantize or (), [each.part for each in components])
    drawn_on = device if target is None else "cpu"  # a GPU elsewhere draws nothing
    for part in quantized_checkpoint(components, source, policy, options, dtype=dtype, device=drawn_on):
        for name, artefact in build_pieces(part, policy, chosen, progress=shown).items():
            typer.echo(f"{part.title} {name}: {chosen.backend} engine ({part.precision_in_words}) in {artefact.folder}")
