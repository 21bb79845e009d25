"""Where operations are spent: by the modules of the checkpoint, and as many as the graph has."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from deepcache_trt.benchmarks.counting.layers import PRODUCTS, layers_of
from deepcache_trt.benchmarks.counting.macs import count_macs
from tests import tiny
from tests.export.exported import export

SIZES = {"batch": 2, "height": 8, "width": 8, "sequence": 7}


@pytest.fixture
def unet() -> Any:
    return tiny.new_denoiser("sd15")


@pytest.fixture
def graph(unet: Any, store_root: Path, tmp_path: Path) -> onnx.ModelProto:
    return export(unet, "sd15", store_root, tmp_path).graph


def test_all_layers_together_are_the_graph(graph: onnx.ModelProto) -> None:
    layers, whole = layers_of(graph, SIZES), count_macs(graph, SIZES)
    assert sum(layer.macs.weights for layer in layers) == whole.weights
    assert sum(layer.macs.attention for layer in layers) == whole.attention > 0


def test_a_layer_is_a_module_with_its_operations(graph: onnx.ModelProto, unet: Any) -> None:
    """Counted a second time by hooks while the model itself runs."""
    expected: dict[str, int] = {}

    def count(path: str) -> None:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            weight = module.get_parameter("weight")
            expected[path] = output.numel() * weight[0].numel()

        unet.get_submodule(path).register_forward_hook(hook)

    for path, module in unet.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            count(path)
    with torch.no_grad():
        unet(torch.zeros(2, 4, 8, 8), torch.zeros(2), torch.zeros(2, 7, unet.config["cross_attention_dim"]))
    found = {layer.path: layer.macs.weights for layer in layers_of(graph, SIZES) if layer.macs.weights}
    # The embedding of the timestep is the same for all pictures of a call, and computed once.
    different = {path for path in expected if found.get(path) != expected[path]}
    assert {path.split(".")[0] for path in different} <= {"time_embedding"}
    assert set(found) == set(expected)


def test_products_are_counted_with_their_attention(graph: onnx.ModelProto) -> None:
    products = [layer for layer in layers_of(graph, SIZES) if layer.macs.attention]
    assert all(layer.path.endswith(f".{PRODUCTS}") for layer in products)
    assert {layer.path.split(".")[-2] for layer in products} == {"attn1", "attn2"}
