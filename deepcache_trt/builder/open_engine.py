"""From an artefact of the store to an engine that runs."""

from functools import partial

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.backend import BuildOptions, Built, TorchVariant
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.store import Artefact
from deepcache_trt.export import parity
from deepcache_trt.export.segments import Piece, Segment
from deepcache_trt.models.taps import Variant
from deepcache_trt.models.traceable import traceable
from deepcache_trt.tensors import TensorSpec


def open_engine(component: Component, piece: Piece, artefact: Artefact, target: Target) -> Engine:
    """Load what one engine computes; the caller closes it."""
    built = Built(
        folder=artefact.folder,
        inputs={data["name"]: TensorSpec.from_json(data) for data in artefact.about["inputs"]},
        outputs={data["name"]: TensorSpec.from_json(data) for data in artefact.about["outputs"]},
        profiles=profiles_of(artefact),
        cache=lambda kind: target.cache(kind, artefact.key),
        variant=None if isinstance(piece, Segment) else _torch_variant(component, piece),
        options=options_of(artefact),
    )
    return target.backend.open(built)


def _torch_variant(component: Component, variant: Variant) -> TorchVariant:
    architecture = component.architecture
    # A text encoder asks its masks for their values, which cannot be traced, and runs once.
    can_be_traced = architecture.tokens is None
    return TorchVariant(
        inputs={spec.name: spec for spec in architecture.inputs},
        eager=lambda: partial(parity.run_model, component.module(), architecture, variant),
        traceable=(lambda: traceable(component.module(), architecture, variant)) if can_be_traced else None,
    )


def options_of(artefact: Artefact) -> BuildOptions:
    """What an artefact's engine was built with; the defaults where its backend takes none."""
    return BuildOptions(**artefact.about.get("build_options", {}))


def profiles_of(artefact: Artefact) -> tuple[ShapeProfile, ...]:
    """The shapes that an artefact's engine takes; nothing but these where it was compiled."""
    return tuple(ShapeProfile.from_json(data) for data in artefact.about["profiles"])
