"""The layout of DiT's checkpoints (facebookresearch/DiT): one embedding of timestep and label for all blocks.

diffusers keeps a copy of it in each block, and makes the table of positions anew.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.originals.original import Original

if TYPE_CHECKING:
    import torch

_POSITIONS = "pos_embed"

# Beginnings of names, there and in diffusers; {i} is a block.
_ONCE = {
    "x_embedder.proj.": "pos_embed.proj.",
    "final_layer.adaLN_modulation.1.": "proj_out_1.",
    "final_layer.linear.": "proj_out_2.",
}
_EMBEDDED = {
    "t_embedder.mlp.0.": "timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "timestep_embedder.linear_2.",
    "y_embedder.embedding_table.": "class_embedder.embedding_table.",
}
_IN_BLOCKS = {
    "adaLN_modulation.1.": "norm1.linear.",
    "attn.proj.": "attn1.to_out.0.",
    "mlp.fc1.": "ff.net.0.proj.",
    "mlp.fc2.": "ff.net.2.",
}
_QKV = "attn.qkv."


def rename(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """The tensors as diffusers calls them; what has no place keeps its name."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name == _POSITIONS:
            continue
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            renamed |= _of_block(f"transformer_blocks.{block}.", rest, tensor)
        elif begin := _beginning(name, _EMBEDDED):
            rest = _EMBEDDED[begin] + name.removeprefix(begin)
            renamed |= {f"transformer_blocks.{i}.norm1.emb.{rest}": tensor for i in range(config["num_layers"])}
        elif begin := _beginning(name, _ONCE):
            renamed[_ONCE[begin] + name.removeprefix(begin)] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _of_block(block: str, rest: str, tensor: "torch.Tensor") -> "dict[str, torch.Tensor]":
    if rest.startswith(_QKV):
        names = (f"{block}attn1.to_{part}.{rest.removeprefix(_QKV)}" for part in "qkv")
        return dict(zip(names, tensor.chunk(3), strict=True))
    begin = _beginning(rest, _IN_BLOCKS)
    return {block + (_IN_BLOCKS[begin] + rest.removeprefix(begin) if begin else rest): tensor}


def _beginning(name: str, known: Mapping[str, str]) -> str:
    return next((begin for begin in known if name.startswith(begin)), "")


DIT = Original(
    code="DiT",
    pipeline="DiTPipeline",
    parts={"transformer": rename},
    scheduler=("DDIMScheduler", {"beta_schedule": "linear", "clip_sample": False, "set_alpha_to_one": True}),
    wants_vae=True,
)
