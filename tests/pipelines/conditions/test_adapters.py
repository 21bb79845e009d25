"""LoRAs: engines follow what is loaded, fused, switched and scaled, and A → B → A is A again bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import upkeep
from deepcache_trt.engines.backend import ENGINE_GRAPH, BuildOptions
from deepcache_trt.engines.onnxruntime import CPU
from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import BackendError, UnsupportedError
from deepcache_trt.export.parity import example_inputs
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests import tiny
from tests.builder.stores import store_with_graph
from tests.pipelines.drawing import difference, draw
from tests.pipelines.loras import ATTENTION, add_adapter, fresh, save_two

# peft says so about every second adapter, and diffusers loads one after the other.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning")


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_two(tmp_path_factory.mktemp("loras"))


@pytest.fixture(params=["onnxruntime", "torch"])
def pipes(request: pytest.FixtureRequest, loras: Path) -> tuple[Any, Any]:
    """A plain pipeline with both LoRAs loaded, and a cached one on the same models."""
    plain = fresh()
    for name in ("a", "b"):
        plain.load_lora_weights(loras / name, adapter_name=name)
    return plain, DeepCachePipeline.from_pipe(plain, cache_interval=1, backend=request.param)


def test_set_adapters_is_followed_and_the_way_back_is_exact(pipes: tuple[Any, Any]) -> None:
    plain, cached = pipes
    images = {}
    for step, names in enumerate((["a"], ["b"], ["a", "b"], ["a"])):
        plain.set_adapters(names, [0.8] * len(names))
        images[step] = draw(cached)
        assert difference(images[step], draw(plain)) <= 2e-4
    assert torch.equal(images[3], images[0])
    assert difference(images[1], images[0]) > 1e-2
    assert difference(images[2], images[0]) > 1e-2


def test_fusing_is_followed_and_the_way_back_is_exact(pipes: tuple[Any, Any]) -> None:
    plain, cached = pipes
    images = []
    for name in ("a", "b", "a"):
        plain.set_adapters(name)
        plain.fuse_lora(adapter_names=[name])
        images.append(draw(cached))
        assert difference(images[-1], draw(plain)) <= 2e-4
        plain.unfuse_lora()
    assert torch.equal(images[2], images[0])
    assert difference(images[1], images[0]) > 1e-2


def test_many_strengths_leave_the_weights_of_a_few_and_no_engines(
    loras: Path, tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fresh()
    plain.load_lora_weights(loras / "a", adapter_name="a")
    store = store_with_graph(from_model(tiny.denoiser("sd15"), name="tiny", part="unet"), store_root, tmp_path)
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=(), store=tmp_path)
    drawn: dict[float, torch.Tensor] = {}
    one = sum(weight.nbytes for weight in tiny.denoiser("sd15").state_dict().values())
    monkeypatch.setenv("DEEPCACHE_TRT_ADAPTERS_GB", str(2.5 * one / 1e9))
    monkeypatch.setattr(upkeep, "BEING_OPENED_SECONDS", 0.0)
    for strength in (0.1, 0.2, 0.3, 0.4, 0.1):
        plain.set_adapters("a", strength)
        image = draw(cached, steps=2)
        assert torch.equal(drawn.setdefault(strength, image), image)
    kinds = [artefact.kind for artefact in store.list()]
    assert kinds.count("weights") == 2
    assert "engines" not in kinds
    assert not list((tmp_path / "tmp").iterdir())


def test_a_scale_counts(pipes: tuple[Any, Any]) -> None:
    plain, cached = pipes
    images = []
    for scale in (1.0, 0.3):
        plain.set_adapters("a", scale)
        images.append(draw(cached))
        assert difference(images[-1], draw(plain)) <= 2e-4
    assert difference(*images) > 1e-3


@pytest.mark.parametrize(
    "switch_off", [lambda pipe: pipe.disable_lora(), lambda pipe: pipe.unload_lora_weights()], ids=["disable", "unload"]
)
def test_without_adapters_the_image_is_that_of_the_base(
    pipes: tuple[Any, Any], switch_off: Callable[[Any], None]
) -> None:
    plain, cached = pipes
    base = draw(DeepCachePipeline.from_pipe(fresh(), cache_interval=1, backend=cached._cached_denoiser.options.backend))
    plain.set_adapters("a")
    assert difference(draw(cached), base) > 1e-2
    switch_off(plain)
    assert torch.equal(draw(cached), base)


def test_a_fused_lora_may_be_unloaded(pipes: tuple[Any, Any]) -> None:
    plain, cached = pipes
    plain.set_adapters("a")
    plain.fuse_lora(adapter_names=["a"])
    plain.unload_lora_weights()
    assert difference(draw(cached), draw(plain)) <= 2e-4


def test_caching_goes_on_with_a_lora(loras: Path) -> None:
    plain = fresh()
    plain.load_lora_weights(loras / "a", adapter_name="a")
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=3)
    whole = draw(plain)
    assert 1e-6 < difference(draw(cached), whole) < difference(draw(DeepCachePipeline.from_pipe(fresh())), whole)


def test_weights_under_the_adapters_may_be_replaced(pipes: tuple[Any, Any]) -> None:
    plain, cached = pipes
    plain.set_adapters("a")
    draw(cached)
    with torch.no_grad():
        plain.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.base_layer.weight.mul_(3)
    assert difference(draw(cached), draw(plain)) <= 2e-4


@pytest.mark.parametrize(
    ("config", "modules", "kind"),
    [({"use_dora": True}, ATTENTION, "Dora"), ({"lora_bias": True}, ["to_out.0"], "a bias")],
)
def test_what_is_more_than_a_product_on_a_weight_is_refused(
    config: dict[str, Any], modules: list[str], kind: str
) -> None:
    plain = fresh()
    add_adapter(plain.unet, modules, **config)
    with pytest.raises(UnsupportedError, match=rf"has a LoRA with .*{kind}.*; engines take plain LoRAs; call pipe"):
        draw(DeepCachePipeline.from_pipe(plain))


def test_another_kind_of_adapter_is_refused() -> None:
    from peft import LoHaConfig

    plain = fresh()
    plain.unet.add_adapter(LoHaConfig(r=2, target_modules=ATTENTION))
    with pytest.raises(UnsupportedError, match=r"has an adapter of type .*; engines take plain LoRAs"):
        draw(DeepCachePipeline.from_pipe(plain))


# Refitting: only TensorRT can, and only on a GPU. Engines of ONNX Runtime that load other weights stand in for it, to
# show that all variants follow or none.


class Refittable(OnnxRuntimeEngine):
    """Takes the weights of another graph, as long as `refuses` does not name it."""

    refuses = ""
    log: ClassVar[list[str]] = []

    def refit(self, graph: Path) -> None:
        kind = "shallow" if "tap_0" in self.inputs else "full"
        self.log.append(kind)
        if kind == self.refuses:
            raise BackendError("this plan lacks the weight conv_in.bias")
        super().__init__(graph)

    def close(self) -> None:
        self.log.append("close")
        super().close()


REFITS = replace(CPU, refits=True, open=lambda built: Refittable(built.folder / ENGINE_GRAPH))


@pytest.fixture
def refittable(monkeypatch: pytest.MonkeyPatch) -> type[Refittable]:
    monkeypatch.setattr(Refittable, "refuses", "")
    Refittable.log.clear()
    return Refittable


def _other_weights() -> Component:
    """A component whose weights are not those that its engines were built with."""
    unet = tiny.denoiser("sd15")
    state = {name: tensor * 1.1 for name, tensor in unet.state_dict().items()}
    return from_model(unet, name="tiny", part="unet", state=state, base=from_model(unet, name="tiny", part="unet"))


def _run(component: Component, store: Path, *, refit: bool) -> torch.Tensor:
    target = Target(backend=REFITS, store=Store(store), options=BuildOptions(refittable=refit))
    sizes = {"batch": 2, "height": 8, "width": 8, "sequence": 5}
    inputs = example_inputs(component.architecture, sizes)
    session = open_session(component, DeepCache(), target, sizes=sizes)
    whole = session.run("full", inputs, sizes)["noise_pred"]
    cached = session.run("shallow", inputs, sizes)["noise_pred"]
    session.close()
    assert difference(whole, cached) <= 1e-5
    return whole


def test_a_refit_reaches_every_variant_and_builds_no_engine(
    refittable: type[Refittable], store_root: Path, built: list[str]
) -> None:
    component = _other_weights()
    assert component.base is not None
    base = _run(component.base, store_root, refit=True)
    built.clear()
    refitted = _run(component, store_root, refit=True)
    assert refittable.log == ["close", "close", "full", "shallow", "close", "close"]
    assert "engines" not in built
    assert torch.equal(refitted, _run(component, store_root, refit=False))
    assert difference(refitted, base) > 1e-3


@pytest.mark.parametrize("refuses", ["full", "shallow"])
def test_if_one_variant_cannot_be_refitted_all_are_built_anew(
    refuses: str, refittable: type[Refittable], store_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    component = _other_weights()
    refittable.refuses = refuses
    wanted = _run(component, store_root, refit=False)
    refittable.log.clear()
    assert torch.equal(_run(component, store_root, refit=True), wanted)
    tried = ["full"] if refuses == "full" else ["full", "shallow"]
    assert refittable.log == [*tried, "close", "close", "close", "close"]
    assert "this plan lacks the weight conv_in.bias; its engines are built anew" in caplog.text
