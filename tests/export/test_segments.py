"""Segments in turn compute what the whole graph does, bit for bit, whichever taps are supplied."""

import functools
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deepcache_trt.errors import UnknownNameError, UnsupportedError
from deepcache_trt.export import parity, weights
from deepcache_trt.export.segments import SMALL, Segment, cut_segment, running, segments_of
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.models.taps import Variant
from deepcache_trt.tensors import resolve_dim
from tests import tiny
from tests.export.exported import Exported, export


class Pieces:
    """An exported model in segments between some of its taps, and what the whole graph gives for seeded inputs."""

    def __init__(self, exported: Exported, taps: Sequence[str]) -> None:
        self.exported, self.taps = exported, list(taps)
        self.segments = segments_of(exported.graph, taps)
        self.graphs = {segment.name: cut_segment(exported.graph, segment) for segment in self.segments}
        self._sessions: dict[str, Any] = {}

    @functools.cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        architecture = self.exported.component.architecture
        side = architecture.fixed_size or 2 * architecture.downsampling
        tensors = self.exported.inputs(batch=2, sequence=5, height=side, width=side)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    @functools.cached_property
    def expected(self) -> dict[str, np.ndarray]:
        whole = self.exported.save(Variant(name="whole", emits=tuple(self.taps)))
        return parity.run_session(parity.open_session(whole), self.inputs)

    def check(self, *, consumes: Sequence[str], wanted: Sequence[str]) -> list[str]:
        """The names of the segments that ran; what was wanted is what the whole graph gives, bit for bit."""
        tensors = self.inputs | {tap: self.expected[tap] for tap in consumes}
        chosen = running(self.segments, consumes=consumes, wanted=wanted)
        for segment in chosen:
            given = parity.run_session(self._session(segment.name), tensors)
            assert not given.keys() & tensors.keys(), "nothing is computed twice, or over what was supplied"
            tensors |= given
        for name in wanted:
            np.testing.assert_array_equal(tensors[name], self.expected[name], err_msg=name)
        return [segment.name for segment in chosen]

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            folder = self.exported.folder
            stored = weights.locate(sorted(folder.glob("*.safetensors")))
            weights.save_bound(self.graphs[name], stored, folder / "segment.onnx")
            self._sessions[name] = parity.open_session(folder / "segment.onnx")
        return self._sessions[name]


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, _, controlled = request.param.partition("+")
    folder = tmp_path_factory.mktemp(request.param)
    return export(tiny.denoiser(name), name, store_root, folder, controlled=bool(controlled))


@pytest.fixture(scope="module")
def pieces(exported: Exported) -> Pieces:
    return Pieces(exported, exported.taps)


UNETS = ["sd15", "sdxl", "svd", "ddpm", "sd15+controlnet"]
of_unets = pytest.mark.parametrize("exported", UNETS, indirect=True, scope="module")
of_dit = pytest.mark.parametrize("exported", ["dit"], indirect=True, scope="module")
of_all = pytest.mark.parametrize("exported", [*UNETS, "dit"], indirect=True, scope="module")


@of_unets
def test_a_unet_with_one_tap_has_three_segments_of_which_a_cached_step_leaves_one_out(exported: Exported) -> None:
    for tap in exported.taps:
        segments = segments_of(exported.graph, [tap])
        assert [segment.name for segment in segments] == ["head", tap, "tail"]
        assert [s.name for s in running(segments, consumes=[tap], wanted=[OUTPUT])] == ["head", "tail"]
        assert running(segments, consumes=[], wanted=[OUTPUT, tap]) == segments


@pytest.mark.parametrize("k", [0, 3, -1])
@of_unets
def test_a_unet_in_three_segments_computes_the_same(exported: Exported, k: int) -> None:
    tap = exported.taps[k]
    pieces = Pieces(exported, [tap])
    assert pieces.check(consumes=[], wanted=[OUTPUT, tap]) == ["head", tap, "tail"]
    assert pieces.check(consumes=[tap], wanted=[OUTPUT]) == ["head", "tail"]


@of_unets
def test_little_crosses_at_the_first_branch(exported: Exported) -> None:
    """The first residual and the embedded timestep, and four conditions that SVD embeds for all of its layers."""
    head = segments_of(exported.graph, exported.taps[:1])[0]
    assert len(head.outputs) == (6 if "added_time_ids" in head.inputs else 2)


@of_unets
def test_a_branch_of_many_runs_only_the_layers_above_it(pieces: Pieces) -> None:
    assert len(pieces.segments) == 2 * len(pieces.taps) + 1
    for k, tap in enumerate(pieces.taps):
        names = pieces.check(consumes=[tap], wanted=[OUTPUT])
        assert [name for name in names if name in pieces.taps] == pieces.taps[:k][::-1]
        assert len(names) == 2 + 2 * k  # head and tail, and for each branch above the layers down to it and up from it


@pytest.mark.parametrize("seed", range(4))
@of_unets
def test_any_taps_of_a_unet_can_be_supplied(pieces: Pieces, seed: int) -> None:
    dice = random.Random(seed)
    consumed = [tap for tap in pieces.taps if dice.random() < 0.4]
    names = pieces.check(consumes=consumed, wanted=[OUTPUT, *(tap for tap in pieces.taps if tap not in consumed)])
    assert not set(names) & set(consumed)


@of_dit
def test_a_dit_has_a_segment_for_each_tap_and_glue_around_them(pieces: Pieces) -> None:
    assert [segment.name for segment in pieces.segments[1::2]] == pieces.taps
    glue = [segment.name for segment in pieces.segments[::2]]
    assert glue == ["head", *(f"glue_{i}" for i in range(1, len(pieces.taps))), "tail"]


@pytest.mark.parametrize("seed", range(32))
@of_dit
def test_any_mask_of_a_dits_sublayers_runs_on_the_same_segments(pieces: Pieces, seed: int) -> None:
    """Learning-to-Cache: each step reuses another set of attention and MLP outputs."""
    dice = random.Random(seed)
    density = dice.choice((0.1, 0.5, 0.9))
    consumed = [tap for tap in pieces.taps if dice.random() < density]
    computed = [tap for tap in pieces.taps if tap not in consumed]
    names = pieces.check(consumes=consumed, wanted=[OUTPUT, *computed])
    assert [name for name in names if name in pieces.taps] == computed


@of_dit
def test_between_two_sublayers_lies_their_sum_and_the_modulation_of_the_next(pieces: Pieces) -> None:
    glue = {name: len(graph.graph.node) for name, graph in pieces.graphs.items() if name.startswith("glue")}
    assert all(glue[f"glue_{i}"] <= (3 if i % 2 else 25) for i in range(1, len(pieces.taps)))


@pytest.mark.parametrize("some", [["tap_mlp_1"], ["tap_mhsa_0", "tap_mlp_3"], []])
@of_dit
def test_taps_that_no_policy_uses_cut_nothing(exported: Exported, some: list[str]) -> None:
    pieces = Pieces(exported, some)
    assert len(pieces.segments) == 2 * len(some) + 1
    pieces.check(consumes=some, wanted=[OUTPUT])


@of_all
def test_every_weight_is_in_one_segment_and_only_small_constants_are_in_several(pieces: Pieces) -> None:
    initializers = [tensor for graph in pieces.graphs.values() for tensor in graph.graph.initializer]
    found = Counter(tensor.name for tensor in initializers)
    external = {tensor.name for tensor in initializers if tensor.data_location == TensorProto.EXTERNAL}
    assert external == pieces.exported.weights
    assert {found[name] for name in external} == {1}
    assert all(np.prod(tensor.dims) <= SMALL for tensor in initializers if found[tensor.name] > 1)


@of_all
def test_what_crosses_is_floating_point_with_a_shape_in_the_axes_of_the_model(pieces: Pieces) -> None:
    axes = dict.fromkeys(pieces.exported.component.architecture.axes, 48)
    inputs = {value.name for value in pieces.exported.graph.graph.input}
    for graph in pieces.graphs.values():
        for value in (*graph.graph.input, *graph.graph.output):
            tensor = value.type.tensor_type
            assert tensor.elem_type == TensorProto.FLOAT or value.name in inputs
            assert all(resolve_dim(dim.dim_param or dim.dim_value, axes) > 0 for dim in tensor.shape.dim), value.name


@of_all
def test_segments_are_the_same_each_time(exported: Exported) -> None:
    assert segments_of(exported.graph, exported.taps) == segments_of(exported.graph, exported.taps[::-1])


@of_dit
def test_unknown_names_are_refused_with_the_known_ones(pieces: Pieces) -> None:
    graph = pieces.exported.graph
    with pytest.raises(UnknownNameError, match=r"no tap 'tap_99' in this graph; it has tap_mhsa_0"):
        segments_of(graph, ["tap_mhsa_0", "tap_99"])
    with pytest.raises(UnknownNameError, match=r"no tap 'noise_pred'"):
        segments_of(graph, [OUTPUT])
    with pytest.raises(UnknownNameError, match=r"no segment gives 'tap_99'; they give .*noise_pred.*tap_mhsa_0"):
        running(pieces.segments, consumes=["tap_99"], wanted=[OUTPUT])


def _graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A model of x: [4] float32 with a weight w and the tap tap_0."""
    x, y, tap = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", OUTPUT, "tap_0"))
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y, tap], [w]))


def test_a_weight_that_is_read_on_both_sides_of_a_tap_is_refused() -> None:
    both = _graph(helper.make_node("Mul", ["x", "w"], ["tap_0"]), helper.make_node("Mul", ["tap_0", "w"], [OUTPUT]))
    with pytest.raises(UnsupportedError, match=r"'w' is read on both sides of a tap"):
        segments_of(both, ["tap_0"])
    assert [segment.name for segment in segments_of(both, [])] == ["tail"]


def test_nodes_that_share_a_weight_stay_together() -> None:
    """The second would go to the tail, where alone it is read."""
    graph = _graph(
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Sub", ["x", "w"], ["b"]),
        helper.make_node("Sigmoid", ["a"], ["tap_0"]),
        helper.make_node("Sum", ["a", "b", "tap_0"], [OUTPUT]),
    )
    assert segments_of(graph, ["tap_0"]) == (
        Segment(name="head", inputs=("x",), outputs=("a", "b")),
        Segment(name="tap_0", inputs=("a",), outputs=("tap_0",)),
        Segment(name="tail", inputs=("a", "b", "tap_0"), outputs=(OUTPUT,)),
    )
