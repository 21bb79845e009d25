"""A pipeline as one file, under the names of the code that Stable Diffusion was published with (CompVis, 2022)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def save_as_one_file(pipe: Any, path: Path) -> Path:
    """Write a Stable Diffusion pipeline's weights to `path`, a safetensors file or a pickle."""
    tensors = {
        **{f"model.diffusion_model.{name}": value for name, value in original_unet(pipe.unet)},
        **{f"first_stage_model.{name}": value for name, value in _vae(pipe.vae)},
        **{f"cond_stage_model.transformer.{name}": value for name, value in _text(pipe.text_encoder)},
    }
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors}, path)
    return path


def original_unet(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a U-Net of diffusers, under their original names."""
    prefixes = dict(_UNET)
    layers = model.config.layers_per_block + 1
    for i in range(len(model.down_blocks)):
        for j in range(layers - 1):
            prefixes |= {f"down_blocks.{i}.resnets.{j}": f"input_blocks.{1 + i * layers + j}.0"}
            prefixes |= {f"down_blocks.{i}.attentions.{j}": f"input_blocks.{1 + i * layers + j}.1"}
        prefixes |= {f"down_blocks.{i}.downsamplers.0.conv": f"input_blocks.{(i + 1) * layers}.0.op"}
    for i, block in enumerate(model.up_blocks):
        for j in range(layers):
            prefixes |= {f"up_blocks.{i}.resnets.{j}": f"output_blocks.{i * layers + j}.0"}
            prefixes |= {f"up_blocks.{i}.attentions.{j}": f"output_blocks.{i * layers + j}.1"}
        sampler = 2 if hasattr(block, "attentions") else 1
        prefixes |= {f"up_blocks.{i}.upsamplers.0": f"output_blocks.{i * layers + layers - 1}.{sampler}"}
    for name, value in model.state_dict().items():
        prefix = next(known for known in prefixes if name.startswith(f"{known}."))
        rest = name.removeprefix(prefix)
        if ".resnets." in name:
            rest = re.sub(r"^\.(\w+)", lambda found: f".{_RESNET[found[1]]}", rest)
        yield prefixes[prefix] + rest, value


def _vae(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    last = len(model.decoder.up_blocks) - 1
    for name, value in model.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
        for ours, theirs in _VAE.items():
            name = name.replace(ours, theirs)
        is_attention = ".attn_1." in name and value.ndim == 2
        yield name, value[..., None, None] if is_attention else value


def _text(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in model.state_dict().items():
        yield name if name.startswith("text_model.") else f"text_model.{name}", value
