"""What a store holds, for people (`deepcache-trt inspect`) and for programs (`--json`)."""

from typing import TYPE_CHECKING, Any

import onnx

from deepcache_trt.benchmarks.counting.macs import count_macs
from deepcache_trt.builder.graphs import GRAPH
from deepcache_trt.builder.pieces import piece_from_json
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.engines.upkeep import KINDS
from deepcache_trt.export.segments import Segment, cut_piece
from deepcache_trt.tensors import LATENT_PIXELS

if TYPE_CHECKING:
    from rich.table import Table


def inventory(store: Store) -> dict[str, Any]:
    """Every artefact of the store with its sizes; engines with their operations at their first profile's best shape."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for artefact in store.list():
        row = {"key": artefact.key, "folder": str(artefact.folder), "bytes": artefact.size, **artefact.about}
        if artefact.kind == "engines":
            row |= _macs(artefact, store)
        rows[artefact.kind].append(row)
    return {"store": str(store.root), **rows}


def _macs(engine: Artefact, store: Store) -> dict[str, Any]:
    graph = store.find("graphs", engine.about["graph"])
    if graph is None:
        return {"macs": None}
    sizes = ShapeProfile.from_json(engine.about["profiles"][0]).at("opt")
    piece = piece_from_json(engine.about)
    macs = count_macs(cut_piece(onnx.load(graph.folder / GRAPH, load_external_data=False), piece), sizes)
    return {"macs": {"sizes": sizes, "weights": macs.weights, "attention": macs.attention}}


def inventory_tables(held: dict[str, Any]) -> list["Table | str"]:
    """The same as tables of rich."""
    from rich.markup import escape
    from rich.table import Table

    if not (held["graphs"] or held["engines"]):
        return [f"The store {held['store']} is empty; fill it with:", "    deepcache-trt build --model digits"]
    graphs = Table("graph", "architecture", "dtype", "nodes", "taps", "parity", "MB", title=f"Store {held['store']}")
    for row in held["graphs"]:
        # One with quantized layers is made of another graph, which has been looked at.
        facts = (
            ("", "", "") if "quantized" in row else (str(row["nodes"]), str(len(row["taps"])), _parity(row["parity"]))
        )
        graphs.add_row(row["key"][:8], row["class"], _precision(row), *facts, _megabytes(row["bytes"]))
    engines = Table("engine", "model", "computes", "backend", "for", "batch", "pixels", "GMACs", "MB")
    for row in held["engines"]:
        model, piece = f"{row['model']} {row['component']}", _piece(row)
        backend = f"{row['backend']} {_precision(row)}{_in_8_bits(row.get('built', {}))}{_check(row)}"
        figures = (*_shapes(row["profiles"]), _gigamacs(row["macs"]), _megabytes(row["bytes"]))
        engines.add_row(row["key"][:8], escape(model), piece, backend, escape(row["device"]), *figures)
    return [graphs, engines]


def _piece(row: dict[str, Any]) -> str:
    piece = piece_from_json(row)
    if isinstance(piece, Segment):
        return f"segment {piece.name}"
    return " ".join((piece.name, *(f"from {tap}" for tap in piece.consumes), *(f"gives {tap}" for tap in piece.emits)))


def _precision(row: dict[str, Any]) -> str:
    return f"{row['dtype']}, {row['precision']}" if "precision" in row else str(row["dtype"])


def _in_8_bits(built: dict[str, Any]) -> str:
    """How many of its quantized layers multiply numbers of 8 bits, where the compiler told."""
    layers = built.get("quantized_layers")
    return "" if layers is None else f" in {layers - len(built['not_in_8_bits'])} of {layers} layers"


def _check(row: dict[str, Any]) -> str:
    return "" if row.get("check", {}).get("usable", True) else " (unusable)"


def _parity(parity: dict[str, Any] | str) -> str:
    return parity if isinstance(parity, str) else f"{max(parity['relative_error'].values()):.0e}"


def _shapes(profiles: list[dict[str, dict[str, int]]]) -> tuple[str, str]:
    shapes = [ShapeProfile.from_json(profile) for profile in profiles]
    pixels = [" × ".join(dict.fromkeys((_pixels(shape.height), _pixels(shape.width)))) for shape in shapes]
    return "\n".join(str(shape.batch) for shape in shapes), "\n".join(pixels)


def _pixels(latent: Range) -> str:
    return str(Range(min=latent.min * LATENT_PIXELS, opt=latent.opt * LATENT_PIXELS, max=latent.max * LATENT_PIXELS))


def _gigamacs(macs: dict[str, Any] | None) -> str:
    if macs is None:
        return "?"
    at = macs["sizes"]
    return f"{(macs['weights'] + macs['attention']) / 1e9:.2f} at {at['batch']}×{at['height'] * LATENT_PIXELS}²"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"
