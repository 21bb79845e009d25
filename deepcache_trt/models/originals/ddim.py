"""The layout of DDPM's checkpoints in PyTorch (ermongroup/ddim): levels are counted from the outermost on both ways.

Attention is four convolutions of one pixel there, and linear layers in diffusers.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.originals.original import Original

if TYPE_CHECKING:
    import torch

_ONCE = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "norm_out": "conv_norm_out",
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
}
_RESNET = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}

# What a level consists of, there and in diffusers.
_IN_LEVELS = (
    (re.compile(r"block\.(\d+)"), "resnets"),
    (re.compile(r"attn\.(\d+)"), "attentions"),
    (re.compile(r"downsample()\.conv"), "downsamplers"),
    (re.compile(r"upsample()\.conv"), "upsamplers"),
)


def rename(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """The tensors as diffusers calls them; what has no place keeps its name."""
    levels = len(config["block_out_channels"])
    return dict(_renamed(name, tensor, levels) for name, tensor in tensors.items())


def _renamed(name: str, tensor: "torch.Tensor", levels: int) -> "tuple[str, torch.Tensor]":
    module, _, kind = name.rpartition(".")  # "weight" or "bias"
    if level := re.match(r"(down|up)\.(\d+)\.", module):
        way, number = level[1], int(level[2])
        place, rest = _in_level(module[level.end() :])
        outer = f"{way}_blocks.{number if way == 'down' else levels - 1 - number}.{place}"
    else:
        begin = next((begin for begin in _ONCE if module == begin or module.startswith(f"{begin}.")), module)
        outer, rest = _ONCE.get(begin, begin), module[len(begin) + 1 :]
    is_attention = "attentions" in outer
    inner = (_ATTENTION if is_attention else _RESNET).get(rest, rest)
    if is_attention and tensor.ndim == 4:
        tensor = tensor[:, :, 0, 0]
    return ".".join(part for part in (outer, inner, kind) if part), tensor


def _in_level(path: str) -> tuple[str, str]:
    """Where it is in diffusers' block, and the rest of the path."""
    for pattern, place in _IN_LEVELS:
        if found := pattern.match(path):
            rest = path[found.end() :].lstrip(".")
            return f"{place}.{found[1] or 0}", rest if found[1] else "conv"
    return path, ""


DDIM = Original(
    code="ddim",
    pipeline="DDIMPipeline",
    parts={"unet": rename},
    scheduler=("DDIMScheduler", {"beta_schedule": "linear", "clip_sample": True}),
)
