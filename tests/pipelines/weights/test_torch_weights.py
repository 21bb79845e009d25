"""`keep_torch_weights=False`: no torch weights while engines run, and all of them as soon as anyone uses them."""

import copy
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch.multiprocessing.reductions import StorageWeakRef

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder import open_session as opening
from deepcache_trt.builder.open_engine import open_engine
from deepcache_trt.errors import StoreError
from deepcache_trt.pipelines import torch_weights
from tests.pipelines import loras, micro_parts
from tests.pipelines.drawing import difference
from tests.pipelines.weights.changes import replace_values, write, write_past_the_counter
from tests.pipelines.weights.own_models import PARTS, draw, fresh


def freeing(plain: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(
        plain, **{"cache_interval": 1, "backend": "onnxruntime", "keep_torch_weights": False, **options}
    )


@pytest.fixture
def pipe() -> Any:
    """A pipeline that has drawn an image and freed its weights."""
    pipe = freeing(fresh())
    draw(pipe)
    return pipe


@pytest.fixture(scope="module")
def shared(store_root: Path) -> Any:
    """The same for tests that leave it as it was."""
    pipe = freeing(fresh(), store=store_root)
    draw(pipe)
    return pipe


def bytes_of(model: Any) -> int:
    """Of memory under the weights."""
    return sum(weight.nbytes for weight in model.parameters() if weight.device.type != "meta")


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_freed(pipe: Any) -> bool:
    return bytes_of(pipe.unet) == bytes_of(pipe.text_encoder) == bytes_of(pipe.vae.decoder) == 0


def test_no_memory_is_left_under_the_weights_that_engines_hold() -> None:
    plain = fresh()
    kept = draw(freeing(plain, keep_torch_weights=True))
    memory = [StorageWeakRef(weight.untyped_storage()) for weight in plain.unet.parameters()]
    assert bytes_of(plain.unet) > 5e4
    pipe = freeing(plain)
    assert torch.equal(draw(pipe), kept)
    assert all(storage.expired() for storage in memory)
    assert is_freed(pipe)
    assert all(weight.is_meta for weight in pipe.unet.parameters())


@torch.no_grad()
def test_what_is_beside_the_decoder_is_loaded_by_itself_and_then_stays() -> None:
    plain = fresh()
    vae, image = plain.vae, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(image).latent_dist.mean
    pipe = freeing(plain)
    draw(pipe)
    assert bytes_of(vae) == 0
    draw(pipe)
    assert bytes_of(vae) == bytes_of(vae.post_quant_conv) > 0
    assert torch.equal(vae.encode(image).latent_dist.mean, latents)
    draw(pipe)
    assert bytes_of(vae) == sum(map(bytes_of, (vae.encoder, vae.quant_conv, vae.post_quant_conv)))
    assert vae.device == torch.device("cpu")


def test_the_next_image_is_the_same_from_the_same_engines(shared: Any) -> None:
    sessions = [component.session for component in (shared._cached_denoiser, *shared._live_components)]
    assert torch.equal(draw(shared), draw(shared))
    assert [component.session for component in (shared._cached_denoiser, *shared._live_components)] == sessions
    assert is_freed(shared)


def test_the_weights_are_gone_before_an_engine_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(freeing(fresh()))  # else building would load engines too
    pipe = freeing(fresh())
    left: dict[str, int] = {}

    def looking(component: Any, *arguments: Any) -> Any:
        model = getattr(pipe, component.part)
        left[component.part] = bytes_of(model.decoder if component.part == "vae" else model)
        return open_engine(component, *arguments)

    monkeypatch.setattr(opening, "open_engine", looking)
    draw(pipe)
    assert left == dict.fromkeys(PARTS, 0)


def test_the_pipeline_is_where_it_was(shared: Any) -> None:
    for where in (shared, shared.unet, shared.text_encoder, shared.vae):
        assert where.device == torch.device("cpu")
        assert where.dtype == torch.float32
    assert shared._execution_device == torch.device("cpu")
    other: Any = DDPMPipeline(shared.unet, shared.scheduler)
    assert other.device == torch.device("cpu")
    assert type(shared.unet).__name__ == "UNet2DConditionModel"
    assert shared.unet.num_parameters() == micro_parts.unet("sd").num_parameters()


def call_unet(pipe: Any) -> None:
    given = torch.ones(1, 4, 8, 8), torch.tensor([7.0]), torch.ones(1, 5, 32)
    with torch.no_grad():
        assert torch.equal(pipe.unet(*given).sample, micro_parts.unet("sd")(*given).sample)


def call_block(pipe: Any) -> None:
    assert torch.isfinite(pipe.unet.conv_in(torch.ones(1, 4, 8, 8))).all()


def pickle(pipe: Any) -> None:
    file = io.BytesIO()
    torch.save(pipe.unet, file)
    file.seek(0)
    assert bytes_of(torch.load(file, weights_only=False)) == bytes_of(micro_parts.unet("sd"))


USES: dict[str, Callable[[Any], Any]] = {
    "state_dict": lambda pipe: pipe.unet.state_dict(),
    "state_dict of a block": lambda pipe: pipe.unet.conv_in.state_dict(),
    "load_state_dict": lambda pipe: pipe.unet.load_state_dict(micro_parts.unet("sd").state_dict()),
    "to": lambda pipe: pipe.to("cpu"),
    "cast": lambda pipe: pipe.unet.to(torch.float64).to(torch.float32),
    "call": call_unet,
    "call of a block": call_block,
    "values": lambda pipe: pipe.unet.conv_in.weight.sum().item(),
    "copy": lambda pipe: copy.deepcopy(pipe.unet),
    "pickle": pickle,
    "disable_cache": lambda pipe: pipe.disable_cache(),
    "inference mode": torch.inference_mode()(lambda pipe: pipe.unet.state_dict()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whoever_uses_the_weights_gets_them(shared: Any, use: Callable[[Any], Any]) -> None:
    expected, unet = draw(shared), micro_parts.unet("sd")
    weights, session = list(shared.unet.parameters()), shared._cached_denoiser.session
    use(shared)
    assert bytes_of(shared.unet) == bytes_of(unet)
    assert [id(weight) for weight in shared.unet.parameters()] == [id(weight) for weight in weights]
    assert type(shared.unet) is type(unet)
    for name, tensor in shared.unet.state_dict().items():
        assert torch.equal(tensor, unet.state_dict()[name])
    shared.enable_cache()
    assert torch.equal(draw(shared), expected)
    assert is_freed(shared)
    reopens = use is USES["disable_cache"]
    assert (shared._cached_denoiser.session is session) != reopens


def test_loaded_weights_can_be_trained(pipe: Any) -> None:
    torch.inference_mode()(lambda: pipe.unet.state_dict())()
    pipe.unet.conv_in(torch.ones(1, 4, 8, 8)).sum().backward()
    assert pipe.unet.conv_in.weight.grad is not None


def test_what_is_saved_is_what_was_loaded(shared: Any, tmp_path: Path) -> None:
    shared.save_pretrained(tmp_path)
    saved = StableDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    for part, original in {"unet": micro_parts.unet("sd"), **micro_parts.components_of("sd")}.items():
        if part in PARTS:
            state = getattr(saved, part).state_dict()
            assert state.keys() == original.state_dict().keys()
            assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())
    assert torch.equal(draw(freeing(saved)), draw(shared))


def test_disable_cache_is_plain_diffusers(pipe: Any) -> None:
    pipe.disable_cache()
    assert not any(torch_weights.is_dropped(getattr(pipe, part)) for part in PARTS)
    assert torch.equal(draw(pipe), draw(fresh()))


def test_pipelines_that_share_the_models_go_on() -> None:
    plain = fresh()
    expected = draw(plain)
    pipe = freeing(plain)
    image = draw(pipe)
    assert torch.equal(draw(plain), expected)
    assert torch.equal(draw(pipe), image)
    assert is_freed(pipe)
    assert torch.equal(draw(StableDiffusionPipeline.from_pipe(pipe)), expected)
    other = DeepCachePipeline.from_pipe(pipe, cache_interval=1, keep_torch_weights=True)
    assert torch.equal(draw(pipe), image)
    assert torch.equal(draw(other), image)
    assert not is_freed(pipe)
    assert torch.equal(draw(pipe), image)
    # diffusers compares the classes of models with those that the other pipeline wants.
    edit = StableDiffusionImg2ImgPipeline.from_pipe(plain)
    assert edit.unet is pipe.unet
    assert bytes_of(edit.unet) > 0


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, pipe = tmp_path_factory.mktemp("lora"), fresh()
    for model, modules in ((pipe.unet, ["to_q", "to_v"]), (pipe.text_encoder, ["q_proj"])):
        loras.add_adapter(model, modules)
    loras.save(pipe, folder)
    return folder


def load(pipe: Any, lora: Path) -> None:
    pipe.load_lora_weights(lora, adapter_name="a")
    pipe.set_adapters("a", 0.7)


def load_and_fuse(pipe: Any, lora: Path) -> None:
    pipe.load_lora_weights(lora, adapter_name="a")
    pipe.fuse_lora(lora_scale=0.7)
    pipe.unload_lora_weights()


def add(pipe: Any, lora: Path) -> None:
    loras.add_adapter(pipe.unet, ["to_k"])


@pytest.mark.parametrize("give", [load, load_and_fuse, add])
def test_a_lora_works_on_freed_weights(pipe: Any, lora: Path, give: Callable[[Any, Path], None]) -> None:
    plain, base = fresh(), draw(pipe)
    give(plain, lora)
    give(pipe, lora)
    assert difference(draw(pipe), draw(plain)) <= 2e-4
    assert difference(draw(pipe), base) > 1e-2
    # Adapters need the weights beneath; fused, they are weights as any.
    assert is_freed(pipe) == (give is load_and_fuse)
    if give is load:
        pipe.unload_lora_weights()
        assert torch.equal(draw(pipe), base)
        assert is_freed(pipe)


def replace_layer(model: Any) -> None:
    model.conv_out = copy.deepcopy(model.conv_out)
    write(model)


@pytest.mark.parametrize("change", [write, write_past_the_counter, replace_values, replace_layer])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_change_of_freed_weights_is_noticed(pipe: Any, change: Callable[[Any], None], loaded: bool) -> None:
    plain, before = fresh(), draw(pipe)
    if loaded:
        torch_weights.load(pipe.unet)
    for one in (plain, pipe):
        change(one.unet)
    assert difference(draw(pipe), draw(plain)) <= 1e-4
    assert difference(draw(pipe), before) > 1e-3
    assert is_freed(pipe)


def test_other_engines_are_opened_without_the_torch_weights(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw(shared)
    shared.set_cache_params(cache_branch_id=1)
    draw(shared)  # builds them
    monkeypatch.setattr(torch_weights, "_load_one", None)
    for branch in (0, 1, 0):
        shared.set_cache_params(cache_branch_id=branch)
        image = draw(shared)
    assert torch.equal(image, expected)


def test_where_the_torch_model_is_the_engine_its_weights_stay(caplog: pytest.LogCaptureFixture) -> None:
    plain = fresh()
    pipe = freeing(plain, backend="torch")
    with caplog.at_level(logging.INFO, logger="deepcache_trt"):
        assert difference(draw(pipe), draw(plain)) <= 1e-5
    assert bytes_of(pipe.unet) == bytes_of(micro_parts.unet("sd"))
    assert "unet stay in memory: 'torch' runs the model itself" in caplog.text


def test_a_store_that_is_deleted_is_named(shared: Any) -> None:
    expected = draw(shared)
    folder = next(shared.unet.parameters()).origin._kept.folder
    folder.rename(folder.with_suffix(".gone"))
    with pytest.raises(StoreError, match=r"torch weights of .* unet were dropped, and .*weights/.* no more; load the"):
        shared.unet.state_dict()
    folder.with_suffix(".gone").rename(folder)
    assert torch.equal(draw(shared), expected)
