"""IP-Adapters: a U-Net that looks at images runs on engines of its own, and its scales are theirs to be told."""

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.graphs import graph_key
from deepcache_trt.errors import NotBuiltError, UnsupportedError
from deepcache_trt.models.architecture import CallForm
from tests.pipelines import micro, micro_parts
from tests.pipelines.conditions.ip_adapters import embeds, load, with_adapters
from tests.pipelines.drawing import difference, python_between_steps
from tests.reference import cached_by_hooks, cached_by_package

STEPS = 5
INTERVAL = 2


def draw(pipe: Any, name: str = "sd", *kinds: str, **call: Any) -> torch.Tensor:
    """Latents of an image after seeded embeddings, one for each kind of adapter."""
    given = {"ip_adapter_image_embeds": embeds(*kinds)} if kinds else {}
    return micro.draw(pipe, micro.STRAIGHT[name], **{"num_inference_steps": STEPS, **given, **call})


def cached(plain: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, **{"backend": "onnxruntime", "components": (), **options})


@pytest.mark.parametrize(
    ("name", "kinds", "images"),
    [
        ("sd", ("plain",), 1),
        ("sd", ("plain", "plus"), 1),
        ("sdxl", ("plus",), 1),
        # Each has a graph of its own, and an export takes seconds.
        pytest.param("sd", ("plain", "plus"), 2, marks=pytest.mark.slow),
        pytest.param("sd", ("full face",), 1, marks=pytest.mark.slow),
        pytest.param("sd", ("face id",), 1, marks=pytest.mark.slow),
        pytest.param("sdxl", ("plain", "plain"), 3, marks=pytest.mark.slow),
    ],
)
def test_images_are_those_of_plain_diffusers_and_cached_ones_those_of_hooks(
    name: str, kinds: tuple[str, ...], images: int
) -> None:
    plain = with_adapters(name, *kinds)
    call = {"ip_adapter_image_embeds": embeds(*kinds, images=images)}
    pipe = cached(plain, cache_interval=1)
    whole = draw(plain, name, **call)
    assert difference(draw(pipe, name, **call), whole) <= 1e-4
    plain.set_ip_adapter_scale([0.0] * len(kinds))
    assert difference(draw(plain, name, **call), whole) > 1e-2
    plain.set_ip_adapter_scale([0.6] * len(kinds))
    pipe.set_cache_params(cache_interval=INTERVAL)
    with cached_by_hooks(plain.unet, lambda call: call % INTERVAL == 0):
        expected = draw(plain, name, **call)
    found = draw(pipe, name, **call)
    assert pipe.last_run.way == "whole loop"
    assert difference(found, expected) <= 1e-4
    assert difference(found, draw(plain, name, **call)) > 1e-3
    assert difference(draw(pipe, name, **call, callback_on_step_end=python_between_steps), found) <= 1e-5
    assert pipe.last_run.way == "per step"


@pytest.mark.parametrize(("name", "kind"), [("sd", "plain"), ("sdxl", "plus")])
def test_cached_images_are_those_of_the_deepcache_package(name: str, kind: str) -> None:
    plain = with_adapters(name, kind)
    pipe = cached(plain, cache_interval=INTERVAL)
    with cached_by_package(plain, interval=INTERVAL):
        expected = draw(plain, name, kind)
    assert difference(draw(pipe, name, kind), expected) <= 1e-4
    assert difference(draw(plain, name, kind), expected) > 1e-3


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_scales_change_without_a_build(backend: str, built: list[str]) -> None:
    plain = with_adapters("sd", "plain", "plus")
    pipe = cached(plain, cache_interval=1, backend=backend)
    kinds = ("plain", "plus")
    found = [draw(pipe, "sd", *kinds)]
    built.clear()
    session = pipe._cached_denoiser.session
    in_layers = {"up": {"block_0": [0.0, 0.7]}, "down": {"block_0": [0.3]}}
    for scale in (0.0, 0.5, [1.0, 0.0], [0.2, in_layers], in_layers, 1.0):
        pipe.set_ip_adapter_scale(scale if isinstance(scale, list) else [scale, scale])
        found.append(draw(pipe, "sd", *kinds))
        assert difference(found[-1], draw(plain, "sd", *kinds)) <= 1e-4
    assert torch.equal(found[0], found[-1])
    assert all(difference(a, b) > 1e-3 for a, b in itertools.pairwise(found))
    assert pipe._cached_denoiser.session is session
    assert not built


def test_a_scale_that_changes_between_two_steps_is_followed() -> None:
    plain = with_adapters("sd", "plain")
    pipe = cached(plain, cache_interval=1)

    def fades(own: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        own.set_ip_adapter_scale(1 - (i + 1) / STEPS)
        return tensors

    drawn = []
    for one in (plain, pipe):
        plain.set_ip_adapter_scale(1.0)
        drawn.append(draw(one, "sd", "plain", callback_on_step_end=fades))
    assert difference(*drawn) <= 1e-4
    plain.set_ip_adapter_scale(1.0)
    assert difference(drawn[0], draw(plain, "sd", "plain")) > 1e-2


def test_adapters_come_and_go_and_nothing_of_them_stays(tmp_path: Path) -> None:
    plain = with_adapters("sd")
    pipe = cached(plain, cache_interval=1)
    base = draw(plain)
    assert difference(draw(pipe), base) <= 1e-4
    for kinds in (("plain",), ("plain", "plus")):
        load(pipe, *kinds)
        found = draw(pipe, "sd", *kinds)
        assert difference(found, draw(plain, "sd", *kinds)) <= 1e-4
        assert difference(found, base) > 1e-2
        pipe.unload_ip_adapter()
        assert difference(draw(pipe), base) <= 1e-4
    pipe.save_pretrained(tmp_path)
    saved = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    saved.set_progress_bar_config(disable=True)
    assert torch.equal(draw(saved), base)


def test_several_prompts_and_images_that_are_encoded_by_the_pipeline() -> None:
    vision = micro_parts.components_of("svd")
    encoders = {"image_encoder": vision["image_encoder"], "feature_extractor": vision["feature_extractor"]}
    options = {**micro.STRAIGHT["sd"].options, **encoders}
    plain = dataclasses.replace(micro.STRAIGHT["sd"], options=options).new()
    plain.unet = with_adapters("sd", "plain", "plus").unet
    pipe = cached(plain, cache_interval=1)
    images = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    call: dict[str, Any] = {"prompt": ["a handwritten seven", "three"], "ip_adapter_image": images}
    found = draw(pipe, **call)
    assert difference(found, draw(plain, **call)) <= 1e-4
    assert difference(found, draw(pipe, **{**call, "ip_adapter_image": images[::-1]})) > 1e-3
    call = {"ip_adapter_image": images, "guidance_scale": 1.0}
    assert difference(draw(pipe, **call), draw(plain, **call)) <= 1e-4


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_lora_counts_beside_an_adapter(backend: str) -> None:
    plain = with_adapters("sd", "plain")
    pipe = cached(plain, cache_interval=1, backend=backend)
    before = draw(pipe, "sd", "plain")
    torch.manual_seed(0)
    plain.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    found = draw(pipe, "sd", "plain")
    assert difference(found, draw(plain, "sd", "plain")) <= 2e-4
    assert difference(found, before) > 1e-3


def test_torch_weights_may_be_dropped_and_an_adapter_loaded_after_it(tmp_path: Path) -> None:
    plain = with_adapters("sd", "plain")
    expected = draw(plain, "sd", "plain")
    base = with_adapters("sd")
    pipe = cached(base, cache_interval=1, keep_torch_weights=False)
    draw(pipe)
    load(pipe, "plain")
    for _ in range(2):
        assert difference(draw(pipe, "sd", "plain"), expected) <= 1e-4
    assert all(weight.is_meta for weight in pipe.unet.parameters())
    pipe.disable_cache()
    assert torch.equal(draw(pipe, "sd", "plain"), expected)


def test_a_cached_step_reads_no_image_that_its_layers_do_not_look_at() -> None:
    pipe = cached(with_adapters("sdxl", "plus"), cache_interval=INTERVAL)
    draw(pipe, "sdxl", "plus")
    full, shallow = (pipe._cached_denoiser.session.engines[name].inputs for name in ("full", "shallow"))
    of_adapters = {"image_embeds_0", "ip_adapter_scales"}
    assert of_adapters <= full.keys()
    assert not of_adapters & shallow.keys()


def test_adapters_of_one_structure_share_a_graph_and_others_do_not() -> None:
    def key(*kinds: str, shape: tuple[int, ...] = (1, 32)) -> str:
        component = from_model(
            with_adapters("sd", *kinds).unet, name="", part="unet", form=CallForm(images=(shape,) * len(kinds))
        )
        return graph_key(component)

    keys = [key(), key("plain"), key("plain", "plain"), key("plus"), key("plain", shape=(2, 32))]
    assert len(set(keys)) == len(keys)
    assert key("face id") != key("plain")  # tokens of the same shapes
    trained_further = with_adapters("sd", "plain").unet
    torch.nn.init.ones_(trained_further.encoder_hid_proj.image_projection_layers[0].norm.bias)
    assert graph_key(from_model(trained_further, name="", part="unet", form=CallForm(images=((1, 32),)))) == key(
        "plain"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "called with no image_embeds, and has 1 IP-Adapters; give one image"),
        ({"ip_adapter_image_embeds": embeds("plain", "plain")}, "called with 2 image_embeds"),
        (
            {
                "ip_adapter_image_embeds": embeds("plain"),
                "cross_attention_kwargs": {"ip_adapter_masks": [torch.ones(1, 1, 64, 64)]},
            },
            r"(?s)ip_adapter_masks=\[tensor.* not an input of the graph of UNet2D.*; leave them out",
        ),
    ],
)
def test_what_an_adapter_cannot_be_called_with(call: dict[str, Any], message: str) -> None:
    pipe = cached(with_adapters("sd", "plain"))
    with pytest.raises(UnsupportedError, match=message):
        draw(pipe, **call)


def test_a_scale_for_each_mask_is_refused() -> None:
    pipe = cached(with_adapters("sd", "plain"))
    pipe.set_ip_adapter_scale([[0.3, 0.7]])
    with pytest.raises(UnsupportedError, match=r"a scale for each of its masks.*; call pipe.set_ip_adapter_scale"):
        draw(pipe, "sd", "plain")


def test_half_an_adapter_is_refused() -> None:
    pipe = cached(with_adapters("sd", "plain"))
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    with pytest.raises(UnsupportedError, match=r"none of its attention processors, .*; load the IP-Adapter again"):
        draw(pipe, "sd", "plain")


def test_another_image_projection_is_refused_by_name() -> None:
    class IPAdapterFaceIDPlusImageProjection(torch.nn.Module):
        pass

    plain = with_adapters("sd", "plain")
    pipe = cached(plain)
    plain.unet.encoder_hid_proj.image_projection_layers[0] = IPAdapterFaceIDPlusImageProjection()
    message = r"with IPAdapterFaceIDPlusImageProjection is not covered; covered are those with .*ImageProjection"
    with pytest.raises(UnsupportedError, match=message):
        draw(pipe, "sd", "plain")


def test_build_never_says_that_no_command_builds_these_engines(tmp_path: Path) -> None:
    pipe = cached(with_adapters("sd", "plain"), store=tmp_path / "store", build="never")
    with pytest.raises(
        NotBuiltError, match=r"unet with IP-Adapter .*; allow build='auto' once, since engines"
    ) as raised:
        draw(pipe, "sd", "plain")
    assert "deepcache-trt build" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of modules that torch's compiler imports
def test_torch_s_compiler_takes_scales_as_they_come() -> None:
    plain = with_adapters("sd", "plain", "plus")
    pipe = cached(plain, cache_interval=1, backend="torch-compile")
    for scale in (1.0, 0.0, 0.4):
        pipe.set_ip_adapter_scale([scale, scale])
        assert difference(draw(pipe, "sd", "plain", "plus"), draw(plain, "sd", "plain", "plus")) <= 1e-4


def test_a_controlnet_may_steer_it_too() -> None:
    controlled = micro.OTHERS["sd controlnet"]
    plain = controlled.new(unet=copy.deepcopy(micro_parts.unet("sd")))
    load(plain, "plain")
    call: dict[str, Any] = {"ip_adapter_image_embeds": embeds("plain"), "num_inference_steps": STEPS}
    pipe = DeepCachePipeline.from_pipe(plain, **micro.engines(controlled), cache_interval=INTERVAL)
    with cached_by_hooks(plain.unet, lambda call: call % INTERVAL == 0):
        expected = micro.draw(plain, controlled, **call)
    assert difference(micro.draw(pipe, controlled, **call), expected) <= 1e-4
    plain.set_ip_adapter_scale(0.3)
    assert difference(micro.draw(pipe, controlled, **call), expected) > 1e-3
