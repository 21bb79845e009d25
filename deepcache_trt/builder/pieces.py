"""What engines are made of: a policy's variants, each as a whole, or the segments that these are lists of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import GRAPH, graph_artefact, graph_key
from deepcache_trt.builder.target import Target
from deepcache_trt.errors import NotBuiltError, UnknownNameError, UnsupportedError
from deepcache_trt.export.segments import Piece, Segment, running, segments_of
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The pieces of a component under a policy.

    Attributes:
        pieces: in an order in which they can run.
        variants: the names of the pieces that each variant runs, in order.
    """

    pieces: tuple[Piece, ...]
    variants: Mapping[str, tuple[str, ...]]


def variants_of(architecture: Architecture, policy: Policy, name: str) -> tuple[Variant, ...]:
    """The variants that a model, which messages call `name`, has under a policy.

    Raises:
        UnknownNameError: the policy wants a tap that the denoiser lacks.
    """
    if not is_cached(architecture):
        return (Variant(name=FULL),)
    steering = architecture.steering
    taps = steering.taps if steering is not None else tuple(tap.name for tap in architecture.taps)
    try:
        wanted = policy.variants(taps)
    except UnknownNameError as error:
        raise UnknownNameError(f"{name}: {error}") from error
    return wanted if steering is None else tuple(map(steering.variant, wanted))


def is_cached(architecture: Architecture) -> bool:
    """Whether policies have a say in what it is made of: a denoiser, and what steers one."""
    return architecture.is_denoiser or architecture.steering is not None


def assemble(component: Component, policy: Policy, target: Target, progress: Progress) -> Assembly:
    """The pieces that there must be; a model that no policy caches is whole.

    Raises:
        UnknownNameError: the policy wants a tap that the denoiser lacks.
        UnsupportedError: segments are asked for where there can be none.
        NotBuiltError: there is no graph to cut, and `target.build` is "never".
    """
    variants = variants_of(component.architecture, policy, component.name)
    wants_segments = policy.segments if target.segments is None else target.segments
    if target.segments and target.backend.runs_model:
        raise UnsupportedError(
            f"backend '{target.backend}' runs the model itself, whose weights all variants share; leave segments out"
        )
    if not (wants_segments and is_cached(component.architecture)) or target.backend.runs_model:
        return Assembly(pieces=variants, variants={variant.name: (variant.name,) for variant in variants})
    if target.build == "never" and target.store.find("graphs", graph_key(component)) is None:
        raise NotBuiltError(
            f"the store {target.store.root} has no graph of {component.title} to cut into segments; allow build='auto' "
            f"once, or run deepcache-trt build --segments before"
        )
    taps = sorted({tap for variant in variants for tap in (*variant.consumes, *variant.emits)})
    path = graph_artefact(component, target.store, progress).folder / GRAPH
    segments = segments_of(onnx.load(path, load_external_data=False), taps)
    outputs = [spec.name for spec in component.architecture.outputs]
    runs = {
        variant.name: running(
            segments,
            consumes=variant.consumes,
            wanted=[*(outputs if variant.outputs is None else variant.outputs), *variant.emits],
        )
        for variant in variants
    }
    used = {segment.name for run in runs.values() for segment in run}
    return Assembly(
        pieces=tuple(segment for segment in segments if segment.name in used),
        variants={name: tuple(segment.name for segment in run) for name, run in runs.items()},
    )


def ingredients_of(piece: Piece) -> dict[str, Any]:
    """What the key of an engine has of the piece."""
    return {"segment" if isinstance(piece, Segment) else "variant": asdict(piece)}


def piece_from_json(about: Mapping[str, Any]) -> Piece:
    """What an engine computes, of its manifest, which has `ingredients_of` it."""
    kinds: dict[str, type[Variant | Segment]] = {"variant": Variant, "segment": Segment}
    ((kind, said),) = ((kind, about[kind]) for kind in kinds if kind in about)
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return kinds[kind](**fields)
