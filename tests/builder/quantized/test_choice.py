"""Which layers are quantized: by default those that cached steps leave out, or those that are named."""

from pathlib import Path

import onnx
import pytest

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.builder.quantized.choice import chosen
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import UnknownNameError, UnsupportedError
from deepcache_trt.export.cut import cut
from deepcache_trt.export.layers import layers_of
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache, Uncached
from tests.builder.quantized.quantized_builds import int8
from tests.builder.small_builds import denoiser


@pytest.fixture(scope="module")
def graph(store_root: Path) -> onnx.ModelProto:
    folder = graph_artefact(denoiser(), Store(store_root), logged).folder
    return onnx.load(folder / GRAPH, load_external_data=False)


def names(graph: onnx.ModelProto, component: Component) -> list[str]:
    quantizing = component.quantizing
    assert quantizing is not None
    found = chosen(graph, quantizing.patterns, quantizing.cached, title=component.title)
    return [layer.name for layer in found]


# Of the test-size model: what is at the size of the sample, what at a quarter of it, and what reads sums of residual
# connections.
FULL_SIZE = ("conv_in", "conv_out", "down_blocks.0.", "up_blocks.2.")
QUARTER_SIZE = ("down_blocks.2.", "mid_block.", "up_blocks.0.resnets.")
SUMS = (".conv_shortcut", ".downsamplers.0.conv", ".upsamplers.0.conv")


def bears_it(name: str) -> bool:
    return name.startswith(QUARTER_SIZE) or not (name.startswith(FULL_SIZE) or name.endswith(SUMS))


@pytest.mark.parametrize("branch", [0, 4])
def test_by_default_no_layer_of_a_cached_step_is_quantized_and_of_the_others_all_that_bear_it(
    graph: onnx.ModelProto, branch: int
) -> None:
    found = set(names(graph, int8(denoiser(), policy=DeepCache(cache_branch_id=branch))))
    cached = cut(graph, Variant(name="shallow", consumes=(f"tap_{branch}",)))
    shallow = {layer.name for layer in layers_of(cached)}
    every = {layer.name for layer in layers_of(graph) if layer.reads_sample}
    bears = {name for name in every if bears_it(name)}
    assert found
    assert found == bears - shallow
    assert (bears & shallow) or branch == 0


def test_nothing_of_the_timestep_alone_is_quantized_unless_it_is_named(graph: onnx.ModelProto) -> None:
    assert not [name for name in names(graph, int8(denoiser(), "all")) if "time" in name]
    assert names(graph, int8(denoiser(), "time_embedding.*")) == ["time_embedding.linear_1", "time_embedding.linear_2"]


def test_all_means_every_layer_of_the_sample_but_the_first_and_the_last(graph: onnx.ModelProto) -> None:
    found = names(graph, int8(denoiser(), "all"))
    every = [layer.name for layer in layers_of(graph) if layer.reads_sample]
    assert [every[0], *found, every[-1]] == every
    assert (every[0], every[-1]) == ("conv_in", "conv_out")


def test_where_nothing_is_cached_the_default_keeps_what_bears_it_badly_alone(graph: onnx.ModelProto) -> None:
    found = names(graph, int8(denoiser(), policy=Uncached()))
    every = names(graph, int8(denoiser(), "all"))
    assert found == [name for name in every if bears_it(name)]


def test_a_pattern_that_no_layer_matches_is_refused_with_examples(graph: onnx.ModelProto) -> None:
    with pytest.raises(UnknownNameError, match=r"tiny unet has no layer 'mid_blok.\*'.* patterns are such as"):
        names(graph, int8(denoiser(), "mid_block.*", "mid_blok.*"))


def test_a_graph_with_nothing_between_its_first_and_its_last_layer_says_how_to_name_layers(
    graph: onnx.ModelProto,
) -> None:
    ends = onnx.ModelProto()
    ends.CopyFrom(graph)
    layers = [layer.node for layer in layers_of(graph)]
    kept = [node for node in graph.graph.node if node.output[0] not in layers[2:-1]]
    del ends.graph.node[:]
    ends.graph.node.extend(kept)
    with pytest.raises(UnsupportedError, match="--quantize all"):
        names(ends, int8(denoiser(), policy=Uncached()))
