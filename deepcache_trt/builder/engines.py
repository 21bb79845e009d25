"""From a component to engines: weights → graph → cut → engine, each step only if the store lacks its result."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from deepcache_trt import __version__
from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import bound_graph, graph_key, specs_of, weights_key
from deepcache_trt.builder.open_engine import open_engine, options_of, profiles_of
from deepcache_trt.builder.pieces import assemble, ingredients_of, is_cached
from deepcache_trt.builder.shapes import (
    Shapes,
    as_options,
    in_words,
    profiles_around,
    profiles_for,
    widest_profile,
)
from deepcache_trt.builder.target import Target
from deepcache_trt.builder.trust import Check, check_engine
from deepcache_trt.engines.backend import BuildOptions, Order
from deepcache_trt.engines.profile import ShapeProfile, nearest
from deepcache_trt.engines.store import Artefact, key_of
from deepcache_trt.errors import BackendError, NotBuiltError, ShapeError, StoreError
from deepcache_trt.export import parity, weights
from deepcache_trt.export.segments import Piece, Segment
from deepcache_trt.progress import Progress, logged
from deepcache_trt.runtime.policies.policy import Policy
from deepcache_trt.tensors import PROMPT_TOKENS, TensorSpec

_log = logging.getLogger(__name__)

_AT_FIRST_USE = "since engines with {} are built at first use, not by a command"


def build_pieces(
    component: Component,
    policy: Policy,
    target: Target,
    *,
    sizes: Mapping[str, int] | None = None,
    progress: Progress = logged,
) -> dict[str, Artefact]:
    """The engines of a component's pieces under a policy, by name; what is in the store is not built again.

    Args:
        component: what to build.
        policy: how the denoiser is cached.
        target: what to build for.
        sizes: the axes of a call that has to be served; None: `target.shapes`, or the model's own size.
        progress: told about each stage.

    Raises:
        UnknownNameError: the policy wants a tap that the denoiser lacks.
        ShapeError: `sizes` are outside `target.shapes`; the message has the command that builds for them.
        NotBuiltError: an engine is missing and `target.build` is "never".
        BackendError: the backend cannot build it, or what it built computes something else.
        ParityError: the exported graph does not compute what the model computes.
    """
    check_precision(component, target)
    assembly = assemble(component, policy, target, progress)
    target, profiles = _settle(component, policy, assembly.pieces[0], target, sizes)
    artefacts = {piece.name: _engine(component, policy, piece, target, profiles, progress) for piece in assembly.pieces}
    return {
        piece.name: _trusted(component, piece, artefacts[piece.name], target, progress) for piece in assembly.pieces
    }


def check_precision(component: Component, target: Target) -> None:
    """Raise BackendError unless the backend computes in every precision of the component."""
    target.backend.check_dtype(component.dtype)
    if component.quantizing is not None:
        precision = component.quantizing.precision
        target.backend.check_dtype(precision.name)
        if target.backend.device == "cuda":
            precision.check_gpu(target.device_tag)
        else:
            precision.check_cpu()


def _settle(
    component: Component, policy: Policy, piece: Piece, target: Target, sizes: Mapping[str, int] | None
) -> tuple[Target, tuple[ShapeProfile, ...]]:
    """What to look for and, if it is not there, to build: the caller's shapes, else what there is, else this call's."""
    if not target.backend.compiled:
        return target, (widest_profile(component.architecture),)
    if target.shapes is not None or sizes is None:
        profiles = profiles_for(component, target.shapes or Shapes())
        if sizes is not None and nearest(profiles, sizes) is None:
            cure = f"build for it with: {_command(component, policy, target, sizes)}"
            if component.beyond_config:
                cure = f"name it in size= and batch= of the pipeline, {_AT_FIRST_USE.format(component.beyond_config)}"
            if sizes.get("sequence", 0) > PROMPT_TOKENS:
                shorter = f"shorten the prompt of {sizes['sequence']} tokens to {PROMPT_TOKENS}"
                cure = f"{shorter}, or leave size= and batch= out"
            raise ShapeError(
                f"{component.title} is called with {in_words(component, sizes)}, which is outside what its engines are "
                f"for; {cure}"
            )
        return target, profiles
    same = _engine_ingredients(component, piece, target)
    same.pop("build_options", None)
    built = [
        artefact
        for artefact in target.store.search("engines", same)
        if nearest(profiles_of(artefact), sizes) is not None and _honours(artefact, target.options)
    ]
    if not built:
        return target, profiles_around(component, sizes, static=target.backend.static)
    best = min(built, key=lambda artefact: min(profile.distance(sizes) for profile in profiles_of(artefact)))
    return replace(target, options=options_of(best)), profiles_of(best)


def _honours(artefact: Artefact, options: BuildOptions) -> bool:
    """Whether an engine was built as asked; what is left at its default may be anything."""
    built, default = asdict(options_of(artefact)), asdict(BuildOptions())
    return all(value in (default[name], built[name]) for name, value in asdict(options).items())


def _engine_ingredients(component: Component, piece: Piece, target: Target) -> dict[str, Any]:
    """Everything but the profiles that an engine depends on."""
    ingredients = {
        "graph": graph_key(component),
        "weights": weights_key(component),
        **ingredients_of(piece),
        "backend": target.backend.name,
        "backend_version": target.backend.version(),
        "device": target.device_tag,
    }
    return ingredients | ({"build_options": asdict(target.options)} if target.backend.options else {})


def _engine(
    component: Component,
    policy: Policy,
    piece: Piece,
    target: Target,
    profiles: tuple[ShapeProfile, ...],
    progress: Progress,
) -> Artefact:
    ingredients = _engine_ingredients(component, piece, target) | {"profiles": [asdict(p) for p in profiles]}
    if target.store.find("engines", key_of(ingredients)) is None:
        cached = f", {policy.in_words}" if is_cached(component.architecture) else ""
        missing = (
            f"the store {target.store.root} has no {target.backend} engine {piece.name!r} of {component.title} "
            f"({component.precision_in_words}{cached}) for {target.device_tag}{_elsewhere(ingredients, target)}"
        )
        if target.build == "never":
            cure = f"or run: {_command(component, policy, target, profiles[0].at('opt'))}"
            if component.beyond_config:
                cure = _AT_FIRST_USE.format(component.beyond_config)
            raise NotBuiltError(f"{missing}; allow build='auto' once, {cure}")
        _log.info("%s; building it", missing)
        target.backend.check(target.capability, target.options)  # before a graph is exported for it

    def build(folder: Path) -> dict[str, Any]:
        about = {
            "model": component.name,
            "component": component.part,
            "dtype": component.dtype,
            "policy": policy.kind,
            "version": __version__,
            **({} if component.quantizing is None else {"precision": component.quantizing.precision.name}),
            **ingredients,
        }
        return about | build_engine(component, piece, target, profiles, folder, progress)

    return target.store.get("engines", ingredients, build, passing=component.adapters)


def build_engine(
    component: Component,
    piece: Piece,
    target: Target,
    profiles: tuple[ShapeProfile, ...],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Fill an engine's folder; returns what its manifest says beside what the engine depends on."""
    if target.backend.runs_model:  # which needs neither a graph nor weights in files
        assert not isinstance(piece, Segment)
        inputs, outputs = specs_of(component, piece, progress)
        return {"inputs": [*map(asdict, inputs)], "outputs": [*map(asdict, outputs)]}
    with bound_graph(component, piece, target.store, progress) as path:
        graph = onnx.load(path, load_external_data=False).graph
        inputs, outputs = ([_spec_of(value) for value in values] for values in (graph.input, graph.output))
        about: dict[str, Any] = {"inputs": [*map(asdict, inputs)], "outputs": [*map(asdict, outputs)]}
        about |= target.backend.build(
            Order(
                graph=path,
                folder=folder,
                inputs={spec.name: spec for spec in inputs},
                profiles=profiles,
                target=target.capability,
                options=target.options,
                cache=lambda kind: target.cache(kind, target.device_tag),
                progress=progress,
                stage=f"building the {piece.name} engine of {component.title}",
            )
        )
    return about


def _trusted(component: Component, piece: Piece, artefact: Artefact, target: Target, progress: Progress) -> Artefact:
    """The artefact, once its engine has been compared on this machine with ONNX Runtime on the CPU.

    Raises:
        BackendError: it computes something else; the manifest says so from then on.
    """
    if target.capability is None and not target.backend.trusted and "check" not in artefact.about:
        try:
            found = check_built(component, piece, artefact, target, progress)
            artefact = target.store.amend(artefact, check=asdict(found))
        except StoreError as error:  # an engine that was built ahead may lie where nobody can write
            _log.warning("the %s engine of %s is used unchecked: %s", piece.name, component.title, error)
    check = artefact.about.get("check")
    if check is not None and not check["usable"]:
        raise BackendError(
            f"the {target.backend} engine {piece.name!r} of {component.title} is unusable: {check['reason']}; "
            f"choose another --backend or --dtype, or delete {artefact.folder} to build it again"
        )
    return artefact


def check_built(component: Component, piece: Piece, artefact: Artefact, target: Target, progress: Progress) -> Check:
    """Compare the engine of an artefact on this machine with ONNX Runtime on the CPU."""
    sizes = parity.unseen_sizes(component.architecture)
    if target.backend.compiled:
        sizes = profiles_of(artefact)[0].at("opt")
    with (
        bound_graph(component, piece, target.store, progress) as graph,
        progress(f"checking the {piece.name} engine of {component.title}"),
    ):
        engine = open_engine(component, piece, artefact, target)
        try:
            precision = None if component.quantizing is None else component.quantizing.precision
            return check_engine(
                engine,
                graph,
                component.architecture,
                sizes,
                dtype=component.dtype,
                device=target.device,
                tolerance=None if precision is None else precision.tolerance,
            )
        finally:
            engine.close()


def _elsewhere(ingredients: Mapping[str, Any], target: Target) -> str:
    """Which other devices the store has this engine for."""
    same = {name: value for name, value in ingredients.items() if name not in ("device", "profiles")}
    devices = sorted(
        {artefact.about["device"] for artefact in target.store.search("engines", same)} - {target.device_tag}
    )
    return f"; there is one for {', '.join(devices)}, which does not run on {target.device_tag}" if devices else ""


def _command(component: Component, policy: Policy, target: Target, sizes: Mapping[str, int]) -> str:
    model = shlex.quote(component.name)
    command = f"deepcache-trt build --model {model} --backend {target.backend} --dtype {component.dtype}"
    quantizing = component.quantizing
    if is_cached(component.architecture):
        command += f" {policy.build_option if quantizing is None else policy.calibrating_option}"
        command += "" if quantizing is None else f" {quantizing.options()}"
        command += {True: " --segments", False: " --no-segments", None: ""}[target.segments]
    elif quantizing is not None:
        command += f" --component {component.part} {quantizing.options(component.part)}"
    if target.backend.compiled:
        used = {axis: size for axis, size in sizes.items() if axis in component.architecture.axes}
        command += f" {as_options(component, used)}"
    if target.capability:
        command += f" --target {target.capability}"
    return f"{command} --store {shlex.quote(str(target.store.root))}"


def _spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=weights.ONNX_DTYPES[tensor.elem_type], shape=shape)
