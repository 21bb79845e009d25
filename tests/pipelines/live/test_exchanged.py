"""Components that are exchanged after `from_pipe` are what is called, on engines or in PyTorch."""

from typing import Any

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, MultiControlNetModel

from deepcache_trt import DeepCachePipeline
from tests.pipelines import micro, micro_parts
from tests.pipelines.drawing import difference
from tests.pipelines.weights import own_models


def uncovered_vae() -> Any:
    """As large as the pipeline's own, of a class that no engine is made of."""
    torch.manual_seed(0)
    small = {"down_block_out_channels": (8, 8, 8, 8), "up_block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    model: Any = AsymmetricAutoencoderKL(**small, **kinds, scaling_factor=0.18215)
    return model.eval()


@pytest.mark.parametrize(("vae", "on_engines"), [(micro_parts.tiny_vae, True), (uncovered_vae, False)])
def test_another_vae_is_called_from_the_next_image_on(vae: Any, on_engines: bool) -> None:
    plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime")
    before = own_models.draw(pipe)
    own = pipe.vae
    pipe.vae = plain.vae = vae()
    expected = own_models.draw(plain)
    assert difference(own_models.draw(pipe), expected) <= 1e-4
    assert difference(expected, before) > 1e-3
    assert ("vae" in pipe.last_run.seconds) == on_engines
    before_hand = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime")
    assert difference(own_models.draw(before_hand), expected) <= 1e-4
    pipe.vae = own
    assert torch.equal(own_models.draw(pipe), before)


@pytest.mark.parametrize("tiled", [False, True])
def test_tiles_of_a_tiny_vae_are_those_of_diffusers(tiled: bool) -> None:
    plain = own_models.fresh()
    plain.vae = micro_parts.tiny_vae()
    plain.vae.tile_sample_min_size, plain.vae.tile_latent_min_size = 64, 8
    plain.vae.use_tiling = tiled
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("vae",))
    call = {"height": 96, "width": 128}
    assert difference(own_models.draw(pipe, **call), own_models.draw(plain, **call)) <= 1e-4


def test_one_controlnet_for_several_and_several_for_one() -> None:
    kind = micro.MICROS["sd controlnet"]
    image = micro.picture(1, 64, 64)
    one, two = (micro_parts.controlnet("sd", seed) for seed in (0, 1))
    plain = kind.new()
    pipe = micro.cached(kind, cache_interval=1)
    drawn = []
    for net, images in ((one, image), (MultiControlNetModel([one, two]), [image, image]), (two, image)):
        plain.controlnet = pipe.controlnet = net
        drawn.append(micro.draw(pipe, kind, num_inference_steps=4, image=images))
        assert difference(drawn[-1], micro.draw(plain, kind, num_inference_steps=4, image=images)) <= 1e-4
        paths = ["controlnet"] if images is image else ["controlnet.nets.0", "controlnet.nets.1"]
        assert [part for part in pipe.last_run.seconds if part.startswith("controlnet")] == paths
    assert difference(drawn[0], drawn[1]) > 1e-3


def test_another_unet_is_called_from_the_next_image_on() -> None:
    kind = micro.STRAIGHT["sd"]
    plain, pipe = kind.new(), micro.cached(kind, cache_interval=1)
    before = micro.draw(pipe, kind, num_inference_steps=4)
    own = pipe.unet
    pipe.unet = plain.unet = micro.with_own(kind, "unet").unet
    with torch.no_grad():
        plain.unet.conv_out.weight.mul_(1.5)
    assert (
        difference(micro.draw(pipe, kind, num_inference_steps=4), micro.draw(plain, kind, num_inference_steps=4))
        <= 1e-4
    )
    pipe.unet = own
    assert torch.equal(micro.draw(pipe, kind, num_inference_steps=4), before)
