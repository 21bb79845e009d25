"""Groups of layers: one kind in one block, named by patterns that match no other layer."""

from fnmatch import fnmatchcase
from pathlib import Path

import onnx
import pytest

from deepcache_trt.benchmarks.sensitivity.groups import groups_of
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.engines.store import Store
from deepcache_trt.export.layers import Layer, layers_of
from deepcache_trt.progress import logged
from tests.builder.small_builds import denoiser


@pytest.fixture(scope="module")
def layers(store_root: Path) -> tuple[Layer, ...]:
    folder = graph_artefact(denoiser(), Store(store_root), logged).folder
    return layers_of(onnx.load(folder / GRAPH, load_external_data=False))


def test_every_layer_is_in_one_group_and_matches_the_patterns_of_no_other(layers: tuple[Layer, ...]) -> None:
    groups = groups_of(layers)
    assert sorted(layer.name for group in groups for layer in group.layers) == sorted(layer.name for layer in layers)
    for group in groups:
        matched = {layer.name for layer in layers if any(fnmatchcase(layer.name, each) for each in group.patterns)}
        assert matched == {layer.name for layer in group.layers}
    assert len(groups) < len(layers) / 2


def test_what_reads_the_same_activations_is_together(layers: tuple[Layer, ...]) -> None:
    names = [group.name for group in groups_of(layers) if group.name.startswith("down_blocks.1.attentions")]
    assert names == ["down_blocks.1.attentions.*.to_q + to_k + to_v", "down_blocks.1.attentions.*.to_out.0"]


def test_where_a_star_would_match_another_layer_too_its_layers_are_named() -> None:
    def layer(name: str) -> Layer:
        return Layer(
            weight=f"{name}.weight",
            shape=(1, 1),
            channels=0,
            is_transposed=False,
            activation=f"{name}.in",
            node=name,
            reads_sample=True,
            reads_sum=False,
            reads_product=False,
            level=1,
        )

    first, second = groups_of([layer("block.0.net.1.proj"), layer("block.0.net.1.inner.2.proj")])
    assert first.patterns == ("block.0.net.1.proj",)
    assert second.patterns == ("block.0.net.*.inner.*.proj",)
