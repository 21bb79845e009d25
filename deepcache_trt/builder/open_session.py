"""From a component to a session: what is missing is built, then every variant is loaded."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.engines import build_engine, build_pieces, check_built, check_precision
from deepcache_trt.builder.graphs import bound_graph, graph_key
from deepcache_trt.builder.open_engine import open_engine, profiles_of
from deepcache_trt.builder.pieces import assemble
from deepcache_trt.builder.shapes import widest_profile
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.store import Artefact
from deepcache_trt.errors import BackendError
from deepcache_trt.export.segments import Piece
from deepcache_trt.progress import Progress, logged
from deepcache_trt.runtime.policies.policy import Policy
from deepcache_trt.runtime.session import Session

_log = logging.getLogger(__name__)


def open_session(
    component: Component,
    policy: Policy,
    target: Target,
    *,
    sizes: Mapping[str, int],
    progress: Progress = logged,
    before_loading: Callable[[], None] = lambda: None,
) -> Session:
    """Build what is missing and load it; arguments and errors as for `build_pieces`.

    `before_loading` is called when everything is built and nothing loaded: a time to free memory. It is not called
    for the merged weights of adapters that need no engines of their own in the store.
    """
    check_precision(component, target)
    assembly = assemble(component, policy, target, progress)
    outputs = [spec.name for spec in component.architecture.outputs]
    opened = _open_refitted(component, policy, assembly.pieces, target, sizes, progress)
    if opened is None:
        opened = _open_unkept(component, assembly.pieces, target, progress)
    if opened is None:
        artefacts = build_pieces(component, policy, target, sizes=sizes, progress=progress)
        before_loading()
        with logged(f"loading the engines of {component.title}"):
            engines = _open_all(
                assembly.pieces, lambda each: open_engine(component, each, artefacts[each.name], target)
            )
            opened = engines, artefacts
    engines, artefacts = opened
    profiles = profiles_of(artefacts[assembly.pieces[0].name])
    return Session(engines, variants=assembly.variants, outputs=outputs, profiles=profiles, progress=progress)


def _open_all(pieces: Iterable[Piece], open_one: Callable[[Piece], Engine]) -> dict[str, Engine]:
    """All engines, or none: one that cannot be opened closes those before it."""
    engines: dict[str, Engine] = {}
    try:
        for piece in pieces:
            engines[piece.name] = open_one(piece)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    return engines


def _open_refitted(
    component: Component,
    policy: Policy,
    pieces: tuple[Piece, ...],
    target: Target,
    sizes: Mapping[str, int],
    progress: Progress,
) -> tuple[dict[str, Engine], dict[str, Artefact]] | None:
    """The base model's engines with this component's weights, where the backend can do that; else None."""
    base = component.base
    if base is None or not target.backend.refits or not target.options.refittable:
        return None
    artefacts = build_pieces(base, policy, target, sizes=sizes, progress=progress)
    engines = _open_all(pieces, lambda each: open_engine(base, each, artefacts[each.name], target))
    try:
        for piece in pieces:
            with (
                bound_graph(component, piece, target.store, progress) as graph,
                progress(f"refitting the {piece.name} engine of {component.title}"),
            ):
                engines[piece.name].refit(graph)
    except BaseException as error:
        for engine in engines.values():
            engine.close()
        if not isinstance(error, BackendError):
            raise
        _log.warning("%s: %s; its engines are built anew", component.title, error)
        return None
    return engines, artefacts


def _open_unkept(
    component: Component, pieces: tuple[Piece, ...], target: Target, progress: Progress
) -> tuple[dict[str, Engine], dict[str, Artefact]] | None:
    """Engines for the merged weights of adapters, where nothing is won by keeping them; else None."""
    is_built = target.build != "never" or target.store.find("graphs", graph_key(component)) is not None
    if not (component.adapters and target.backend.opens_graphs and is_built):
        return None
    profiles = (widest_profile(component.architecture),)
    artefacts: dict[str, Artefact] = {}

    def open_one(piece: Piece) -> Engine:
        with target.store.scratch() as folder:
            about = build_engine(component, piece, target, profiles, folder, progress)
            about["profiles"] = [asdict(profile) for profile in profiles]
            made = Artefact(kind="engines", key=folder.name, folder=folder, about=about)
            check = None if target.backend.trusted else check_built(component, piece, made, target, progress)
            if check is not None and not check.usable:
                raise BackendError(f"{target.backend} cannot run {component.title}: {check.reason}")
            artefacts[piece.name] = made
            return open_engine(component, piece, made, target)

    return _open_all(pieces, open_one), artefacts
