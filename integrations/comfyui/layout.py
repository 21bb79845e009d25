"""ComfyUI's U-Nets as diffusers has them: the config, the names of the weights, and SDXL's sizes.

ComfyUI keeps the layout of the original checkpoints, and describes a model by the arguments of its own `UNetModel`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.fresh import empty_model

# SDXL's sizes: of the original, of the crop's corner, of the target, each as height and width and as an embedding.
SIZES = 6
SIZE_CHANNELS = 256

_PREFIX = "model.diffusion_model."
_CURE = "bypass 'Apply DeepCache engines' for it"

# Arguments of ComfyUI's `UNetModel` that make other layers of it.
_UNKNOWN = (
    "disable_middle_self_attn",
    "disable_self_attentions",
    "extra_ff_mix_layer",
    "n_embed",
    "num_attention_blocks",
    "resblock_updown",
    "use_scale_shift_norm",
    "use_spatial_context",
    "use_temporal_attention",
    "use_temporal_resblock",
)


def diffusers_config(unet: Mapping[str, Any]) -> dict[str, Any]:
    """The config of diffusers' `UNet2DConditionModel` for the arguments of ComfyUI's `UNetModel`.

    Raises:
        UnsupportedError: the arguments make a model that diffusers' class has no config for.
    """
    for name in _UNKNOWN:
        if unet.get(name):
            raise UnsupportedError(f"the MODEL has {name}={unet[name]!r}, which no engine has; {_CURE}")
    mults: Sequence[int] = unet["channel_mult"]
    channels = [unet["model_channels"] * mult for mult in mults]
    blocks = unet["num_res_blocks"]
    blocks = [blocks] * len(mults) if isinstance(blocks, int) else list(blocks)
    if len(set(blocks)) != 1:
        raise UnsupportedError(f"the MODEL has {blocks} blocks in its levels, and engines want one number; {_CURE}")
    depths = _by_level(unet["transformer_depth"], blocks[0])
    if _by_level(unet["transformer_depth_output"], blocks[0] + 1) != depths:
        raise UnsupportedError(f"the MODEL has other transformer blocks on its way up than on its way down; {_CURE}")
    middle = unet.get("transformer_depth_middle")
    middle = depths[-1] if middle is None else middle
    if middle < -1 or (middle > 0 and depths[-1] not in (0, middle)):
        raise UnsupportedError(f"the MODEL has {middle} transformer blocks in its middle and {depths} before; {_CURE}")
    heads, per_head = unet.get("num_heads", -1), unet.get("num_head_channels", -1)
    config = {
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": blocks[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle > 0 else "UNetMidBlock2D",
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        # A level without transformers has no use for their number; the middle takes that of the last one.
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), depths[-1] or max(middle, 1)],
        # diffusers calls the number of heads so.
        "attention_head_dim": heads if heads != -1 else [each // per_head for each in channels],
        "cross_attention_dim": unet["context_dim"],
        "use_linear_projection": bool(unet.get("use_linear_in_transformer")),
        "class_embed_type": None,
        "addition_embed_type": None,
    }
    vector = unet.get("adm_in_channels")
    if vector is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_CHANNELS,
            "projection_class_embeddings_input_dim": vector,
        }
    return config


def _by_level(depths: Sequence[int], blocks: int) -> list[int]:
    """The number of transformer blocks in each level, from that of each of its blocks."""
    levels = [tuple(depths[i : i + blocks]) for i in range(0, len(depths), blocks)]
    for level in levels:
        if len(set(level)) != 1:
            raise UnsupportedError(f"the MODEL has {level} transformer blocks in one level; {_CURE}")
    return [level[0] for level in levels]


@functools.cache
def _addresses(config_items: tuple[tuple[str, Any], ...], names: frozenset[str]) -> dict[str, str]:
    """ComfyUI's name of each weight, by diffusers'."""
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in config_items}
    named = {_PREFIX + name: name for name in names}
    converted: dict[str, str] = convert_ldm_unet_checkpoint(named, config)
    return converted


def empty_unet(config: Mapping[str, Any]) -> Any:
    """diffusers' model of a config, its weights on "meta"."""
    return empty_model(UNet2DConditionModel, config)


def give_weights(unet: Any, weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Put ComfyUI's weights into diffusers' model, as they are where they have the precision that is computed in.

    Raises:
        UnsupportedError: they are not those of the model.
    """
    keys = ("layers_per_block", "class_embed_type", "addition_embed_type")
    config = tuple((key, unet.config[key]) for key in keys)
    found = {ours: weights[theirs] for ours, theirs in _addresses(config, frozenset(weights)).items()}
    for name, weight in found.items():
        if type(weight) not in (torch.Tensor, torch.nn.Parameter):
            raise UnsupportedError(
                f"the MODEL's {name} is quantized ({type(weight).__name__}), which engines do not read; {_CURE}"
            )
    wanted, used = unet.state_dict(), len(found)
    missing = [name for name in wanted if name not in found]
    strange = [name for name in found if name not in wanted or wanted[name].shape != found[name].shape]
    if missing or strange or used != len(weights):
        example = ", ".join([*missing, *strange][:3]) or "more weights than diffusers' model"
        raise UnsupportedError(f"the MODEL's weights are not those of a U-Net that engines know ({example}); {_CURE}")
    given = {name: weight.detach().to(dtype) for name, weight in found.items()}
    unet.load_state_dict(given, assign=True)
    unet.requires_grad_(False)


def text_and_sizes(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SDXL's pooled text and its sizes, of what ComfyUI makes of them.

    Args:
        vector: [batch, channels of the pooled text + 6 * 256], the sizes embedded as cosines and sines.

    Returns:
        The pooled text [batch, channels] and the sizes [batch, 6], whole numbers.

    Raises:
        UnsupportedError: there is anything else in the place of the sizes.
    """
    pooled, embedded = vector.split([vector.shape[1] - SIZES * SIZE_CHANNELS, SIZES * SIZE_CHANNELS], dim=1)
    cosines, sines = embedded.float().unflatten(1, (SIZES, SIZE_CHANNELS)).chunk(2, dim=-1)
    half = SIZE_CHANNELS // 2
    frequencies = torch.exp(torch.arange(half, device=vector.device) * (-math.log(10_000) / half))
    # The lowest frequency has less than one turn for any size, if not exactly; each higher one says it more exactly.
    angles = torch.atan2(sines, cosines)
    sizes = torch.zeros_like(angles[..., 0])
    for i in reversed(range(half)):
        turned = angles[..., i] - sizes * frequencies[i]
        sizes = sizes + (turned - 2 * math.pi * torch.round(turned / (2 * math.pi))) / frequencies[i]
    sizes = sizes.round()
    again = sizes[..., None] * frequencies
    tolerance = 4 * torch.finfo(vector.dtype).eps
    if not torch.allclose(torch.cat([again.cos(), again.sin()], -1), torch.cat([cosines, sines], -1), atol=tolerance):
        raise UnsupportedError(f"the prompt of this MODEL has other sizes in it than SDXL's; {_CURE}")
    return pooled, sizes
