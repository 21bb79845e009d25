"""Which layers are quantized.

A cached step runs the shallow layers alone: they are cheap, and what they get wrong is in every step's prediction. The
deep ones are dear, and run once in an interval. So by default the deep ones are quantized and what a cached step runs
is not. Nor are those that were found to bear it badly: the first and the last layer that read the sample, all others at
its full size, those at half of it that read sums of residual connections or products of a gate as they are, and what
reads the timestep or the condition alone, as embeddings do. Products of attention and normalisations are no layers
here, and are never quantized.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx

from deepcache_trt.builder.quantized.quantizing import ALL
from deepcache_trt.errors import UnknownNameError, UnsupportedError, did_you_mean
from deepcache_trt.export.cut import cut
from deepcache_trt.export.layers import Layer, layers_of
from deepcache_trt.models.taps import Variant


def chosen(
    graph: onnx.ModelProto, patterns: Sequence[str], cached: Iterable[Variant], *, title: str
) -> tuple[Layer, ...]:
    """The layers of a full graph that are quantized.

    Args:
        graph: its weights external data.
        patterns: of their names, as "mid_block.*", or `ALL`; none: the default.
        cached: the variants that consume taps.
        title: what messages call the model.

    Raises:
        UnknownNameError: a pattern that no layer matches.
        UnsupportedError: none is left; or the graph is quantized already.
    """
    layers = layers_of(graph)
    if patterns and ALL not in patterns:
        return _matching(layers, patterns, title)
    inner = [layer for layer in layers if layer.reads_sample][1:-1]
    kept = set() if patterns else _in_every_cached_step(graph, cached)
    deep = tuple(layer for layer in inner if layer.node not in kept)
    found = deep if patterns else tuple(layer for layer in deep if _bears_it(layer))
    if not found:
        raise UnsupportedError(
            f"{title} has no layer that is quantized by default: none that cached steps leave out is at a quarter of "
            f"the sample's size, or at half of it and after a normalisation; name layers with --quantize PATTERN, or "
            f"give --quantize {ALL} (quantize=({ALL!r},) in Python)"
        )
    return found


def _bears_it(layer: Layer) -> bool:
    """Whether the sample has been halved twice or more where it is, or else once and what it reads is well-behaved."""
    return layer.level >= 2 or (layer.level == 1 and not (layer.reads_sum or layer.reads_product))


def _matching(layers: Sequence[Layer], patterns: Sequence[str], title: str) -> tuple[Layer, ...]:
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError(
                f"{title} has no layer {pattern!r}{did_you_mean(pattern, names)} to quantize; patterns are such as "
                f"'mid_block.*' or '*.ff.net.*', and {ALL!r} means every layer"
            )
    return tuple(layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns))


def _in_every_cached_step(graph: onnx.ModelProto, cached: Iterable[Variant]) -> set[str]:
    """What the nodes give that every variant has which consumes a tap; nothing where there is no such variant."""
    runs = [{name for node in cut(graph, variant).graph.node for name in node.output} for variant in cached]
    return set.intersection(*runs) if runs else set()
