"""ComfyUI's U-Nets under the names of diffusers."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.catalogue import CATALOGUE
from tests.integrations.comfyui.models import ALL, POOLED, SD15, SDXL, UNetModel, diffusers_unet, layout

# As ComfyUI describes the published models.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd15": {
        **SD15,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "context_dim": 768,
        "num_heads": 8,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "sdxl": {
        **SDXL,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "context_dim": 2048,
        "num_head_channels": 64,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "adm_in_channels": 2816,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_the_one_that_diffusers_has(name: str) -> None:
    ours = layout.empty_unet(layout.diffusers_config(PUBLISHED[name])).state_dict()
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(CATALOGUE[name].parts["unet"].config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("name", ALL)
def test_the_weights_find_their_places(name: str) -> None:
    unet = diffusers_unet(ALL[name])
    again = layout.empty_unet(layout.diffusers_config(ALL[name]))
    layout.give_weights(again, UNetModel(unet).state_dict(), torch.float32)
    for key, value in unet.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
        assert again.state_dict()[key].data_ptr() == value.data_ptr(), "they are not copied"


def test_weights_in_another_precision_are_those_that_are_computed_with() -> None:
    unet = diffusers_unet(SD15)
    again = layout.empty_unet(layout.diffusers_config(SD15))
    half = {name: weight.half() for name, weight in UNetModel(unet).state_dict().items()}
    layout.give_weights(again, half, torch.float32)
    assert torch.equal(again.conv_in.weight, unet.conv_in.weight.half().float())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("out.2.weight"), "conv_out.weight"),
        (lambda weights: weights.update({"out.2.weight": torch.zeros(5, 32, 3, 3)}), "conv_out.weight"),
        (lambda weights: weights.update({"out.2.scale_weight": torch.ones(())}), "more weights"),
        (lambda weights: weights.update({"lora_up": torch.ones(())}), "more weights"),
    ],
)
def test_other_weights_are_refused(change: Any, said: str) -> None:
    weights = UNetModel(diffusers_unet(SD15)).state_dict()
    change(weights)
    with pytest.raises(UnsupportedError, match=said):
        layout.give_weights(layout.empty_unet(layout.diffusers_config(SD15)), weights, torch.float32)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"use_temporal_attention": True}, "use_temporal_attention=True"),
        ({"num_res_blocks": [1, 2, 1]}, r"\[1, 2, 1\] blocks"),
        ({"num_res_blocks": [2, 2, 2], "transformer_depth": [1, 0, 1, 1, 0, 0]}, r"\(1, 0\) transformer blocks"),
        ({"transformer_depth_output": [1, 1, 0, 0, 0, 0]}, "on its way up"),
        ({"transformer_depth": [1, 1, 3], "transformer_depth_output": [1, 1, 1, 1, 3, 3]}, "in its middle"),
        ({"transformer_depth_middle": -2}, "in its middle"),
    ],
)
def test_a_model_that_diffusers_has_no_config_for_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        layout.diffusers_config({**SD15, **changed})


def embedded(sizes: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """SDXL's vector, as ComfyUI makes it."""
    each = get_timestep_embedding(sizes.flatten(), layout.SIZE_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([pooled, each.reshape(len(sizes), -1)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sizes_are_read_back_from_what_is_made_of_them(dtype: torch.dtype) -> None:
    rows = [[0, 1, 7, 8, 16384, 9999], [1024, 1024, 0, 0, 1024, 1024], [768, 1344, 5, 3, 4096, 2047]]
    sizes = torch.tensor(rows, dtype=torch.float32)
    pooled = torch.randn(len(rows), POOLED)
    text, found = layout.text_and_sizes(embedded(sizes, pooled).to(dtype))
    assert torch.equal(found, sizes)
    assert torch.equal(text, pooled.to(dtype))


@pytest.mark.parametrize("wrong", [torch.zeros, torch.ones, torch.randn])
def test_what_is_no_embedding_of_sizes_is_refused(wrong: Any) -> None:
    with pytest.raises(UnsupportedError, match="other sizes"):
        layout.text_and_sizes(torch.cat([torch.randn(1, POOLED), wrong(1, 6 * 256)], dim=1))
