"""Cut the full graph into segments: pieces that run one after the other, each with weights of its own.

A variant is then a list of segments on shared buffers, so that any number of variants need one copy of the weights.

Where a node belongs is told by two sets: its *readers* are the targets, taps and outputs, that need it when every tap
is supplied; what lies *behind* it are the taps that it depends on. A node that one tap alone reads belongs to that
tap's segment, which a variant leaves out where it consumes the tap. The others are glue, and those with the same
readers and the same taps behind them are one segment. This always has an order: along an edge of the graph the taps
behind can only become more and, while they are the same, the readers only fewer.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx.utils import Extractor

from deepcache_trt.errors import UnknownNameError, UnsupportedError
from deepcache_trt.export.cut import cut
from deepcache_trt.models.architecture import TAP_PREFIX
from deepcache_trt.models.taps import Variant

# Elements of a constant that every segment can have for itself; a larger one, or one in a checkpoint, is a weight.
SMALL = 1024


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of the full graph.

    Attributes:
        name: of the tap that it computes; the others are "head", "glue_1", … and "tail", in their order.
        inputs: the tensors that it reads: inputs of the model, taps, and what other segments give.
        outputs: the tensors that it gives to other segments or to the caller.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Piece = Variant | Segment  # what one engine computes


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A node that is in one segment only; of the shapes that it reads, the tensors that have them count as read."""

    reads: frozenset[str]
    writes: tuple[str, ...]
    weights: frozenset[str]


@dataclass(frozen=True, kw_only=True, order=True)
class _Place:
    """The segment that a node belongs to; the smaller one runs first.

    Attributes:
        depth: how many taps are behind it, and behind the tap whose own segment it is.
        is_taps: whether it is a tap's own, which comes after the glue of the same depth.
        spared: how many targets do not read it.
        readers: the targets that do.
        behind: the taps behind glue.
    """

    depth: int
    is_taps: bool
    spared: int
    readers: tuple[str, ...]
    behind: tuple[str, ...] = ()


def segments_of(graph: onnx.ModelProto, taps: Sequence[str]) -> tuple[Segment, ...]:
    """Cut the full graph at `taps` into segments.

    Every call is taken to want all of the model's own outputs, so what any of them needs may be in one segment.

    Args:
        graph: as for `cut`.
        taps: those that a policy consumes or emits; the graph's other taps are ordinary tensors.

    Returns:
        The segments, in an order in which they can run, whichever of them are left out.

    Raises:
        UnknownNameError: a tap that the graph does not have.
        UnsupportedError: a weight that several segments read.
    """
    names = [value.name for value in graph.graph.output]
    outputs = [name for name in names if not name.startswith(TAP_PREFIX)]
    if unknown := set(taps) - (set(names) - set(outputs)):
        known = ", ".join(name for name in names if name not in outputs)
        raise UnknownNameError(f"no tap {min(unknown)!r} in this graph; it has {known or 'none'}")
    members: dict[_Place, list[_Step]] = defaultdict(list)
    for step, place in _late(_placed(_steps(graph), outputs, taps)):
        members[place].append(step)
    _check_weights(members)
    places = sorted(members)
    reads = {place: frozenset[str]().union(*(step.reads for step in members[place])) for place in places}
    order = [value.name for value in graph.graph.input]
    order += [name for place in places for step in members[place] for name in step.writes]
    segments = []
    for name, place in zip(_names(places), places, strict=True):
        written = {name for step in members[place] for name in step.writes}
        wanted = {*outputs, *taps}.union(*(reads[other] for other in places if other != place))
        read, given = (sorted(tensors, key=order.index) for tensors in (reads[place] - written, written & wanted))
        segments.append(Segment(name=name, inputs=tuple(read), outputs=tuple(given)))
    return tuple(segments)


def cut_segment(graph: onnx.ModelProto, segment: Segment) -> onnx.ModelProto:
    """The graph of a segment, with the shape arithmetic and the small constants that it reads.

    Args:
        graph: the full graph that the segment is of, its weights external data, left untouched.
        segment: one of `segments_of`.
    """
    return Extractor(graph).extract_model(list(segment.inputs), list(segment.outputs))


def cut_piece(graph: onnx.ModelProto, piece: Piece) -> onnx.ModelProto:
    """What one engine computes, out of the full graph, its weights external data."""
    return cut_segment(graph, piece) if isinstance(piece, Segment) else cut(graph, piece)


def running(segments: Sequence[Segment], *, consumes: Collection[str], wanted: Iterable[str]) -> tuple[Segment, ...]:
    """The segments that a variant runs, in their order.

    Args:
        segments: all of them, of `segments_of`.
        consumes: the taps that are supplied.
        wanted: the model's own outputs that it gives, and the taps that it emits.

    Raises:
        UnknownNameError: a tensor that no segment gives.
    """
    wanted = set(wanted)
    given = {name for segment in segments for name in segment.outputs}
    if unknown := (wanted | set(consumes)) - given:
        raise UnknownNameError(f"no segment gives {min(unknown)!r}; they give {', '.join(sorted(given))}")
    chosen = []
    for segment in reversed(segments):
        if wanted.difference(consumes).intersection(segment.outputs):
            chosen.append(segment)
            wanted.update(segment.inputs)
    return tuple(reversed(chosen))


def _steps(graph: onnx.ModelProto) -> list[_Step]:
    """The nodes but for shape arithmetic: what is made of shapes and constants alone, which every segment computes."""
    initializers = {tensor.name: _is_weight(tensor) for tensor in graph.graph.initializer}
    about: dict[str, frozenset[str]] = {}  # the tensors whose shapes it is made of
    steps: list[_Step] = []
    for node in graph.graph.node:
        tensors = {name for name in node.input if name} - initializers.keys()
        weights = frozenset(name for name in node.input if initializers.get(name))
        reads = frozenset[str]().union(*(about.get(name, (name,)) for name in tensors))
        if node.op_type == "Shape" or (tensors <= about.keys() and not weights):
            about.update(dict.fromkeys(node.output, reads))
        else:
            steps.append(_Step(reads=reads, writes=tuple(name for name in node.output if name), weights=weights))
    return steps


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or prod(tensor.dims) > SMALL


def _placed(steps: Sequence[_Step], outputs: Sequence[str], taps: Collection[str]) -> list[tuple[_Step, _Place]]:
    """Every step that a target needs, with its place by its readers and the taps behind it."""
    targets = {*outputs, *taps}
    behind: dict[str, frozenset[str]] = defaultdict(frozenset)
    for step in steps:
        before = step.reads.intersection(taps).union(*(behind[name] for name in step.reads))
        behind.update(dict.fromkeys(step.writes, before))
    readers: dict[str, set[str]] = defaultdict(set, {name: {name} for name in targets})
    placed = []
    for step in reversed(steps):
        own = set[str]().union(*(readers[name] for name in step.writes))
        for name in step.reads.difference(taps):
            readers[name] |= own
        if own:
            placed.append((step, _place(step, own, behind, targets, taps)))
    return placed[::-1]


def _place(
    step: _Step, own: set[str], behind: Mapping[str, frozenset[str]], targets: set[str], taps: Collection[str]
) -> _Place:
    """The place of a step that the targets `own` need, of all `targets`."""
    if len(own) == 1 and own.issubset(taps):
        (tap,) = own
        return _Place(depth=len(behind[tap]), is_taps=True, spared=0, readers=(tap,))
    assert not own.intersection(step.writes, taps), "a tap is all that its node gives"
    own = own if own.issubset(taps) else targets  # every call wants what an output needs
    before = behind[step.writes[0]]
    return _Place(
        depth=len(before),
        is_taps=False,
        spared=len(targets) - len(own),
        readers=tuple(sorted(own)),
        behind=tuple(sorted(before)),
    )


def _late(placed: Sequence[tuple[_Step, _Place]]) -> list[tuple[_Step, _Place]]:
    """Glue moved to the last segment of the same readers that comes before what reads it, so that less crosses.

    What is made of the condition or the timestep alone, as keys, values and modulations, would all be in the head.
    Nodes that share a weight stay there, as they could part.
    """
    uses = Counter(name for step, _ in placed for name in step.weights)
    glue: dict[tuple[str, ...], list[_Place]] = defaultdict(list)
    for place in {place for _, place in placed if not place.is_taps}:
        glue[place.readers].append(place)
    first: dict[str, _Place] = {}  # where a tensor is read first
    moved = []
    for step, place in reversed(placed):
        read_at = [first[name] for name in step.writes if name in first]
        if read_at and not place.is_taps and all(uses[name] == 1 for name in step.weights):
            place = max(later for later in glue[place.readers] if later <= min(read_at))
        first.update((name, min(place, first.get(name, place))) for name in step.reads)
        moved.append((step, place))
    return moved[::-1]


def _names(places: Sequence[_Place]) -> list[str]:
    glue = [place for place in places if not place.is_taps]
    names = {place: f"glue_{i}" for i, place in enumerate(glue)} | {glue[0]: "head", glue[-1]: "tail"}
    return [place.readers[0] if place.is_taps else names[place] for place in places]


def _check_weights(members: Mapping[_Place, Sequence[_Step]]) -> None:
    """Every weight must be in one segment, or there would be two copies of it on the device."""
    found = Counter(name for steps in members.values() for name in {name for step in steps for name in step.weights})
    if shared := [name for name, count in found.items() if count > 1]:
        raise UnsupportedError(
            f"{min(shared)!r} is read on both sides of a tap, so that segments would each hold a copy; "
            "run this model's variants as whole engines"
        )
