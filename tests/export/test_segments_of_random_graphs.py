"""Whatever the graph, its segments have an order, compute the same, and run no node that the cut would not have."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from deepcache_trt.export.cut import cut
from deepcache_trt.export.segments import cut_segment, running, segments_of
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.models.taps import Variant


def _random_graph(dice: random.Random, taps: int) -> onnx.ModelProto:
    """Sums of up to three tensors, each [4] float32, of which some read the shape of another; any can be a tap."""
    count = dice.randint(taps + 1, 40)
    names = [f"t{i}" for i in range(count - 1)]
    for k, i in enumerate(dice.sample(range(count - 1), k=taps)):
        names[i] = f"tap_{k}"
    names.append(OUTPUT)
    nodes, tensors = [], ["x"]
    for name in names:
        read = dice.sample(tensors[-6:], k=min(len(tensors[-6:]), dice.randint(1, 3)))
        if dice.random() < 0.3:
            nodes.append(helper.make_node("Shape", [dice.choice(tensors)], [f"{name}.shape"]))
            nodes.append(helper.make_node("Cast", [f"{name}.shape"], [f"{name}.size"], to=TensorProto.FLOAT))
            read.append(f"{name}.size")
        nodes.append(helper.make_node("Sum", [*read, read[0]], [name]))
        tensors.append(name)
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", *names)}
    outputs = [values[name] for name in names if name.startswith("tap_") or name == OUTPUT]
    graph = helper.make_graph(nodes, "g", [values["x"]], outputs, value_info=list(values.values()))
    return helper.make_model(graph)


def _sums(model: onnx.ModelProto) -> set[str]:
    return {node.output[0] for node in model.graph.node if node.op_type == "Sum"}


@pytest.mark.parametrize("seed", range(100))
def test_any_taps_of_any_graph_can_be_supplied(seed: int) -> None:
    dice = random.Random(seed)
    graph = _random_graph(dice, taps := dice.randint(0, 6))
    used = [f"tap_{k}" for k in range(taps) if dice.random() < 0.8]
    segments = segments_of(graph, used)
    cuts = {segment.name: cut_segment(graph, segment) for segment in segments}
    x = np.array([1, 2, 3, 4], np.float32)
    whole = cut(graph, Variant(name="whole", emits=tuple(used)))
    values = ReferenceEvaluator(whole).run(None, {"x": x})
    expected = dict(zip([value.name for value in whole.graph.output], values, strict=True))
    for _ in range(6):
        consumed = [tap for tap in used if dice.random() < 0.5]
        emitted = [tap for tap in used if tap not in consumed and dice.random() < 0.5]
        chosen = running(segments, consumes=consumed, wanted=[OUTPUT, *emitted])
        variant = cut(graph, Variant(name="any", consumes=tuple(consumed), emits=tuple(emitted)))
        ran = [name for segment in chosen for name in _sums(cuts[segment.name])]
        assert len(ran) == len(set(ran))
        assert set(ran) == _sums(variant)
        tensors = {"x": x} | {tap: expected[tap] for tap in consumed}
        for segment in chosen:
            model = cuts[segment.name]
            given = ReferenceEvaluator(model).run(None, {name: tensors[name] for name in segment.inputs})
            tensors |= dict(zip(segment.outputs, given, strict=True))
        for name in (OUTPUT, *emitted):
            np.testing.assert_array_equal(tensors[name], expected[name])
