"""TensorRT-RTX compiles every variant of every kind of model for an RTX A5000 (sm86), on a machine without a GPU."""

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir
import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor2_0,
)

from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.model_source import ModelSource, find_components
from deepcache_trt.builder.shapes import shapes_from_text
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.store import Artefact
from deepcache_trt.engines.tensorrt import TENSORRT_RTX
from deepcache_trt.engines.tensorrt.backend import ENGINE_PLAN
from deepcache_trt.export import weights
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.architecture import CallForm
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import DeepCache, Policy
from tests import tiny
from tests.builder.stores import store_with_graph
from tests.pipelines.conditions.ip_adapters import TOKENS, WIDTH, with_adapters

trt = pytest.importorskip("tensorrt_rtx", reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'")

DENOISERS = ["sd21", "sdxl", "svd", "ddpm", "sd15+controlnet"]
TAPS_OF_DIGITS = 12
DTYPES = ["float16", "float32"]


def component(name: str, dtype: str) -> Component:
    """A test-size model; `name+controlnet` takes the residuals of a ControlNet, too."""
    name, _, controlled = name.partition("+")
    model = tiny.denoiser(name) if name in tiny.ARCHITECTURES else tiny.part(name)
    model = copy.deepcopy(model).to(getattr(torch, dtype))
    return from_model(model, name="tiny", part=name, form=CallForm(controlled=bool(controlled)))


def digits(dtype: str) -> Component:
    (unet,) = find_components(ModelSource(model="digits"), dtype=dtype, parts=["unet"])
    return unet


@pytest.fixture
def folder() -> Iterator[Path]:
    """Plans are large, and pytest would keep them for three runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


_AT_0, _AT_1 = DeepCache(), DeepCache(cache_branch_id=1)


@dataclass(frozen=True, kw_only=True)
class Only(Policy):
    """One variant, which is all that is built."""

    kind: ClassVar[str] = "only"
    variant: Variant

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        return (self.variant,)

    def plan(self, calls: int) -> Plan:
        raise NotImplementedError


def plans(made_of: Component, shared: Path, folder: Path, *sizes: str, policy: Policy = _AT_0) -> dict[str, Artefact]:
    """The plans of all variants, one profile for each of the sizes."""
    store = store_with_graph(made_of, shared, folder)
    shapes = shapes_from_text(sizes, ["1"])
    target = Target(backend=TENSORRT_RTX, store=store, capability="sm86", shapes=shapes)
    return build_pieces(made_of, policy, target)


def assert_is_a_plan(artefact: Artefact, *, profiles: int) -> None:
    built = artefact.about["built"]
    expected = {"built_for": "sm86", "strongly_typed": True, "profiles": profiles, "tensorrt": trt.__version__}
    assert expected.items() <= built.items()
    assert len(artefact.about["profiles"]) == profiles
    assert artefact.about["device"] == "sm86"
    assert (artefact.folder / ENGINE_PLAN).stat().st_size == built["plan_bytes"]


def plan_bytes(artefacts: Mapping[str, Artefact], variant: str) -> int:
    size: int = artefacts[variant].about["built"]["plan_bytes"]
    return size


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # The bundled model, below, is one with text.
        pytest.param(name, dtype, marks=[] if (name, dtype) == ("ddpm", "float16") else [pytest.mark.slow])
        for name in DENOISERS
        for dtype in DTYPES
    ],
)
def test_a_denoiser_becomes_a_full_and_a_small_shallow_plan_for_two_sizes(
    name: str, dtype: str, store_root: Path, folder: Path
) -> None:
    sizes = ("8", "16") if name == "ddpm" else ("64", "72x104")
    built = plans(component(name, dtype), store_root, folder, *sizes)
    full, shallow = built["full"], built["shallow"]
    for artefact in (full, shallow):
        assert_is_a_plan(artefact, profiles=2)
        assert {spec["dtype"] for spec in artefact.about["outputs"]} == {dtype}
    assert [spec["name"] for spec in full.about["outputs"]] == ["noise_pred", "tap_0"]
    assert "tap_0" in [spec["name"] for spec in shallow.about["inputs"]]
    assert shallow.about["built"]["layers"] < full.about["built"]["layers"] / 4
    assert plan_bytes(built, "shallow") < plan_bytes(built, "full") / 3


def test_a_controlnet_becomes_a_full_and_a_small_shallow_plan(store_root: Path, folder: Path) -> None:
    controlnet = copy.deepcopy(tiny.controlnet()).to(torch.float16)
    built = plans(
        from_model(controlnet, name="tiny", part="controlnet"),
        store_root,
        folder,
        "64",
        "72x104",
        policy=DeepCache(cache_branch_id=1),
    )
    for artefact in built.values():
        assert_is_a_plan(artefact, profiles=2)
    given = {name: [spec["name"] for spec in artefact.about["outputs"]] for name, artefact in built.items()}
    assert given["shallow"] == ["down_residual_0", "down_residual_1"]
    assert set(given["full"]) > {*given["shallow"], "mid_residual", "tap_condition"}
    assert "controlnet_cond" not in [spec["name"] for spec in built["shallow"].about["inputs"]]
    assert plan_bytes(built, "shallow") < plan_bytes(built, "full") / 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("changed", ["IP-Adapters", "attention across frames"])
def test_a_denoiser_that_a_pipeline_has_changed_becomes_plans(
    changed: str, dtype: str, store_root: Path, folder: Path
) -> None:
    unet = with_adapters("sd", *(("plain", "plus") if changed == "IP-Adapters" else ())).unet.to(getattr(torch, dtype))
    images = ((1, WIDTH), (2, TOKENS, WIDTH)) if changed == "IP-Adapters" else ()
    if not images:
        unet.set_attn_processor(CrossFrameAttnProcessor2_0(batch_size=2))
    made_of = from_model(unet, name="tiny", part="unet", form=CallForm(images=images))
    for artefact in plans(made_of, store_root, folder, "64", "128x64").values():
        assert_is_a_plan(artefact, profiles=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "profiles"),
    [("vae", 3), pytest.param("temporal_vae", 2, marks=pytest.mark.slow), ("clip", 2), ("clip_projection", 2)],
)
def test_the_parts_beside_the_denoiser_become_plans(
    name: str, profiles: int, dtype: str, store_root: Path, folder: Path
) -> None:
    """A decoder has a profile for its tiles, too, but that of videos has none; a text encoder's are two batches."""
    made_of = component(name, dtype)
    store = store_with_graph(made_of, store_root, folder)
    shapes = shapes_from_text(["64", "128"], ["1"]) if name.endswith("vae") else shapes_from_text([], ["1", "4"])
    target = Target(backend=TENSORRT_RTX, store=store, capability="sm86", shapes=shapes)
    (artefact,) = build_pieces(made_of, DeepCache(), target).values()
    assert_is_a_plan(artefact, profiles=profiles)


# The bundled model, every variant of it.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_bundled_model_becomes_plans_for_two_sizes(dtype: str, store_root: Path, folder: Path) -> None:
    built = plans(digits(dtype), store_root, folder, "64", "128x64")
    for artefact in built.values():
        assert_is_a_plan(artefact, profiles=2)
    assert plan_bytes(built, "shallow") < plan_bytes(built, "full") / 8


@pytest.mark.parametrize(
    "branch",
    [pytest.param(k, marks=[] if k in (1, 6, 11) else [pytest.mark.slow]) for k in range(1, TAPS_OF_DIGITS)],
)
def test_every_shallow_variant_of_the_bundled_model_becomes_a_plan(branch: int, store_root: Path, folder: Path) -> None:
    """The full ones differ in which tap is an output, see below."""
    shallow = Variant(name="shallow", consumes=(f"tap_{branch}",))
    built = plans(digits("float16"), store_root, folder, "64", policy=Only(variant=shallow))
    assert_is_a_plan(built["shallow"], profiles=1)


def test_every_tap_of_the_bundled_model_can_be_an_output_of_a_plan(store_root: Path, folder: Path) -> None:
    """One plan that has all of them computes what each full variant does."""
    made_of = digits("float16")
    taps = tuple(tap.name for tap in made_of.architecture.taps)
    assert len(taps) == TAPS_OF_DIGITS
    built = plans(made_of, store_root, folder, "64", policy=Only(variant=Variant(name="full", emits=taps)))
    assert_is_a_plan(built["full"], profiles=1)
    assert [spec["name"] for spec in built["full"].about["outputs"]] == ["noise_pred", *taps]


@pytest.mark.slow
@pytest.mark.parametrize("branch", range(1, TAPS_OF_DIGITS))
def test_every_full_variant_of_the_bundled_model_becomes_a_plan(branch: int, store_root: Path, folder: Path) -> None:
    built = plans(digits("float16"), store_root, folder, "64", policy=DeepCache(cache_branch_id=branch))
    assert_is_a_plan(built["full"], profiles=1)
    assert [spec["name"] for spec in built["full"].about["outputs"]] == ["noise_pred", f"tap_{branch}"]


# Real sizes, without their weights.

PARSE = """
import json, re, sys
from pathlib import Path
from deepcache_trt.engines.tensorrt import versions
trt = versions.load("tensorrt-rtx")
builder = trt.Builder(versions.logger(trt))
network = builder.create_network(versions.network_flags(trt))
parser = trt.OnnxParser(network, versions.logger(trt))
parsed = parser.parse_from_file(sys.argv[1])
print(json.dumps({
    "parsed": parsed,
    "errors": [parser.get_error(i).desc() for i in range(parser.num_errors)],
    "inputs": [network.get_input(i).name for i in range(network.num_inputs)],
    "outputs": [network.get_output(i).name for i in range(network.num_outputs)],
    # Of this program alone: getrusage starts from what its parent had.
    "kilobytes": int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]),
}))
"""


def sparse_weights(state: Mapping[str, torch.Tensor], file: Path) -> None:
    """A safetensors file of the right size that takes no place on the disk: a header, and zeros that nobody wrote."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in state.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


@pytest.mark.parametrize(("model", "gigabytes"), [("sd15", 1.7), pytest.param("sdxl", 5.1, marks=pytest.mark.slow)])
def test_the_graph_of_a_real_unet_parses_without_an_error(model: str, gigabytes: float, folder: Path) -> None:
    unet = CATALOGUE[model].parts["unet"]
    state = fake_model(unet.model_class(), unet.config, "float16").state_dict()
    file = folder / "weights.safetensors"
    sparse_weights(state, file)
    assert file.stat().st_size == pytest.approx(gigabytes * 1e9, rel=0.02)
    assert file.stat().st_blocks * 512 < 10e6

    graph = onnx_ir.to_proto(onnx_from_config(unet.model_class(), unet.config, dtype="float16"))
    weights.save_bound(graph, weights.locate([file]), folder / "graph.onnx")
    command: list[str | Path] = [sys.executable, "-c", PARSE, folder / "graph.onnx"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["parsed"], found["errors"]) == (True, [])
    assert found["inputs"][0] == "sample"
    taps = sum(name.startswith("tap_") for name in found["outputs"])
    assert taps == {"sd15": 12, "sdxl": 9}[model]
    assert found["kilobytes"] < 1e6  # the weights are not read
