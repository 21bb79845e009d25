"""Operations counted from a graph, against torch's own counter and the literature."""

from pathlib import Path

import onnx
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deepcache_trt.benchmarks.macs import Macs, count_macs
from deepcache_trt.engines.store import Store
from deepcache_trt.export import parity
from deepcache_trt.export.cut import cut
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.taps import Variant, deepcache_variants
from deepcache_trt.pipelines.component import from_model
from deepcache_trt.pipelines.graphs import GRAPH, graph_artefact
from deepcache_trt.progress import logged
from tests import tiny

WHOLE = Variant(name="whole")


@pytest.mark.parametrize("name", ["sd15", "sdxl", "svd", "ddpm"])
def test_the_count_is_that_of_torch(name: str, store_root: Path) -> None:
    denoiser = from_model(tiny.denoiser(name), name=name, part="unet")
    artefact = graph_artefact(denoiser, Store(store_root), logged)
    graph = cut(onnx.load(artefact.folder / GRAPH, load_external_data=False), WHOLE)
    multiple = denoiser.architecture.size_multiple
    sizes = {"batch": 2, "sequence": 7, "height": 2 * multiple, "width": multiple}
    inputs = parity.example_inputs(denoiser.architecture, sizes)
    # Only the plain implementation of attention is visible to torch's counter on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        parity.run_model(tiny.denoiser(name), denoiser.architecture, WHOLE, inputs)
    macs = count_macs(graph, sizes)
    assert 2 * (macs.weights + macs.attention) == counter.get_total_flops()
    assert macs.attention > 0


@pytest.mark.slow
def test_stable_diffusion_15_costs_what_the_paper_says(tmp_path: Path) -> None:
    """DeepCache, table 1: 338.83 G at 512×512, attention products left out; our own count of a cached step."""
    import onnx_ir

    unet = CATALOGUE["sd15"].parts["unet"]
    path = tmp_path / "sd15.onnx"
    onnx_ir.save(onnx_from_config(unet.model_class(), unet.config, dtype="float16"), path)
    graph = onnx.load(path, load_external_data=False)
    sizes = {"batch": 1, "sequence": 77, "height": 64, "width": 64}
    assert count_macs(cut(graph, WHOLE), sizes).weights == pytest.approx(338.83e9, rel=0.01)
    assert count_macs(cut(graph, WHOLE), sizes).attention == pytest.approx(63.0e9, rel=0.01)
    for branch, giga in ((0, 20.7), (1, 57.3), (2, 98.0), (11, 332.6)):
        _, shallow = deepcache_variants(branch)
        assert count_macs(cut(graph, shallow), sizes).weights == pytest.approx(giga * 1e9, rel=0.01)


def test_counts_add_up() -> None:
    assert Macs(weights=1, attention=2) + Macs(weights=3, attention=4) == Macs(weights=4, attention=6)
