"""Operations counted from a graph, against torch's own counter and the literature."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx_ir
import pytest

from deepcache_trt.benchmarks.counting.macs import Macs, count_macs
from deepcache_trt.benchmarks.counting.model_counts import ModelCounts, count_model, countable, per_step
from deepcache_trt.engines.store import Store
from deepcache_trt.export.cut import cut
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests import tiny
from tests.benchmarks.counting.torch_counter import torch_macs
from tests.export.exported import export

WHOLE = Variant(name="whole")

# One call at the model's own size: GMACs as published (DeepCache, tables 1 to 4; BK-SDM). CIFAR-10's is a rounded 6.05.
PUBLISHED = {
    "sd15": 338.83,
    "bk-sdm-base": 223.81,
    "bk-sdm-small": 217.78,
    "bk-sdm-tiny": 205.09,
    "ldm-4-g": 99.82,
    "ddpm-cifar10": 6.1,
    "ddpm-bedroom": 248.7,
}


# The same of transformers (DiT, tables 1 and 3; U-ViT, table 3), which count the products inside of attention as well.
# diffusers embeds timestep and label once more in each of DiT's blocks, 0.04 G that a first embedding would do.
OF_TRANSFORMERS = {
    "dit-xl-2-256": 118.6,
    "dit-xl-2-512": 524.6,
    "dit-l-2-256": 80.7,
    "uvit-h-2-256": 133.3,
    "uvit-h-4-512": 133.4,
}


class Average(NamedTuple):
    """A published average over a generation: a call in GMACs."""

    model: str
    branch: int
    calls: int
    interval: int
    giga: float


AVERAGES = [
    # The row that is called N = 5 has 13 full steps of 50, as an interval of 4 has them.
    Average("sd15", 1, 50, 4, 130.45),
    *(Average("ldm-4-g", 0, 250, n, g) for n, g in ((2, 52.12), (3, 36.48), (5, 23.50), (10, 13.97), (20, 9.39))),
    *(Average("ddpm-cifar10", 2, 100, n, g) for n, g in ((2, 4.15), (3, 3.54), (5, 3.01), (10, 2.63))),
    *(Average("ddpm-bedroom", 2, 100, n, g) for n, g in ((2, 190.8), (3, 172.3), (5, 156.0))),
]

# The published counters add normalisations, activations and pooling: theirs is the larger figure, by less than 1 %.
LEAST = 0.99


@pytest.mark.parametrize(
    "name", ["sd15", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "svd")), "ddpm", "dit"]
)
def test_the_count_is_that_of_torch(name: str, store_root: Path, tmp_path: Path) -> None:
    model_class, config = tiny.ARCHITECTURES[name]
    exported = export(tiny.denoiser(name), name, store_root, tmp_path)
    architecture = exported.component.architecture
    multiple = architecture.size_multiple
    sizes = {"batch": 2, "sequence": 7, "height": 2 * multiple, "width": multiple}
    macs = count_macs(cut(exported.graph, WHOLE), sizes)
    assert macs == torch_macs(fake_model(model_class, config, "float32"), architecture, sizes)
    assert macs.attention > 0


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_real_architecture_costs_what_is_published(model: str) -> None:
    """By torch's counter, which needs no graph; that the graphs agree is shown below."""
    unet = CATALOGUE[model].parts["unet"]
    fake = fake_model(unet.model_class(), unet.config, "float16")
    architecture, _ = countable(fake, "float16")
    macs = torch_macs(fake, architecture, sizes_of(model))
    assert PUBLISHED[model] * LEAST < macs.weights / 1e9 <= PUBLISHED[model]


@pytest.mark.parametrize("model", OF_TRANSFORMERS)
def test_a_real_transformer_costs_what_is_published_with_the_products_of_its_attention(model: str) -> None:
    part = CATALOGUE[model].parts["transformer"]
    fake = fake_model(part.model_class(), part.config, "float16")
    architecture, _ = countable(fake, "float16")
    macs = torch_macs(fake, architecture, {"batch": 1})
    assert (macs.weights + macs.attention) / 1e9 == pytest.approx(OF_TRANSFORMERS[model], rel=2e-3)
    assert 0.03 < macs.attention / macs.weights < 0.15


def sizes_of(model: str) -> dict[str, int]:
    """One image at the model's own size."""
    own = CATALOGUE[model].parts["unet"].config["sample_size"]
    return {"batch": 1, "height": own, "width": own, "sequence": tokens_of(model)}


def tokens_of(model: str) -> int:
    return 1 if model == "ldm-4-g" else 77


def profile(model: str, branches: range | list[int]) -> ModelCounts:
    """The catalogue's model as it is counted from its graph."""
    return count_model(
        model,
        dtype="float16",
        size=None,
        batch=1,
        tokens=tokens_of(model),
        branches=branches,
        store=Store(Path("no store")),
        progress=logged,
    )


def assert_published(model: str, found: ModelCounts) -> None:
    unet = CATALOGUE[model].parts["unet"]
    fake = fake_model(unet.model_class(), unet.config, "float16")
    assert found.full.macs == torch_macs(fake, found.component.architecture, sizes_of(model))
    assert found.full.parameters == sum(parameter.numel() for parameter in fake.parameters())
    assert_averages(found, [average for average in AVERAGES if average.model == model])


def assert_averages(found: ModelCounts, published: list[Average]) -> None:
    for _, branch, calls, interval, giga in published:
        plan = DeepCache(cache_interval=interval).plan(calls)
        ours = per_step(plan, found.full.macs.weights, found.shallow[branch].cost.macs.weights)
        assert giga * LEAST < ours / 1e9 <= giga, f"interval {interval}"


def test_ddpm_costs_what_the_paper_says() -> None:
    """DeepCache, table 2: the cached averages of CIFAR-10 are those of k = 2."""
    assert_published("ddpm-cifar10", profile("ddpm-cifar10", [2]))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "branches"), [("ldm-4-g", [0]), ("ddpm-bedroom", [2]), ("bk-sdm-base", [0])])
def test_real_graphs_cost_what_the_papers_say(model: str, branches: list[int]) -> None:
    """DeepCache, tables 2 and 3: LDM-4-G is cached at k = 0, bedroom at k = 2."""
    assert_published(model, profile(model, branches))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bk-sdm-small", "bk-sdm-tiny"])
def test_a_model_that_cannot_be_cached_is_counted_all_the_same(model: str) -> None:
    found = profile(model, [0])
    assert found.refused == "UNet2DConditionModel with no mid block is not covered"
    assert not found.shallow
    assert_published(model, found)


# Of a cached step of SD1.5, in GMACs, by an independent count of convolutions and linear layers on the model.
CACHED_STEP = dict(enumerate((20.7, 57.3, 98.0, 132.6, 167.6, 208.4, 243.0, 278.2, 315.0, 322.7, 327.7, 332.6)))


@pytest.mark.slow
def test_stable_diffusion_15_costs_what_the_paper_says() -> None:
    """DeepCache, table 1, at 512×512."""
    found = profile("sd15", range(12))
    assert_published("sd15", found)
    assert found.full.macs.attention == pytest.approx(63.0e9, rel=0.01)
    cached = {branch: shallow.cost.macs.weights / 1e9 for branch, shallow in found.shallow.items()}
    assert cached == pytest.approx(CACHED_STEP, rel=0.01)


def test_the_published_average_of_sd15_is_that_of_an_interval_of_four() -> None:
    """The row is called N = 5, of which 10 full steps of 50 would be 113.5 G."""
    full, cached = PUBLISHED["sd15"], CACHED_STEP[1]
    by_interval: Mapping[int, float] = {
        interval: per_step(DeepCache(cache_interval=interval).plan(50), full, cached) for interval in (4, 5)
    }
    assert by_interval == pytest.approx({4: 130.45, 5: 113.5}, rel=0.001)


def test_counts_add_up() -> None:
    together = Macs(weights=1, attention=2) + Macs(weights=3, attention=4)
    assert together == Macs(weights=4, attention=6)
    assert together.total == 10


def test_a_graph_in_bfloat16_is_counted_as_any_other() -> None:
    """ONNX infers no shape of a convolution in bfloat16."""
    model_class, config = tiny.ARCHITECTURES["ddpm"]
    sizes = {"batch": 1, "height": 8, "width": 8}
    counts = [
        count_macs(onnx_ir.to_proto(onnx_from_config(model_class, config, dtype=dtype)), sizes)
        for dtype in ("float32", "bfloat16")
    ]
    assert counts[0] == counts[1]
    assert counts[0].weights > 0
