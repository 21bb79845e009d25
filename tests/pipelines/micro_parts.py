"""The models of the pipelines in `tests.pipelines.micro`: U-Nets of a single block, ControlNets, and what is beside."""

import functools
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from deepcache_trt.models.fresh import model_from_config
from tests import tiny

_BLOCK = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8,), "norm_num_groups": 4}
_PLAIN = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
_CROSS = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
_TEXT = {**_BLOCK, **_PLAIN, "out_channels": 4, "cross_attention_dim": 32, "attention_head_dim": 4}
_XL = {
    **_TEXT,
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}
# Stable Video Diffusion's own, with timesteps that are no whole numbers.
_SVD_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}
_UNETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd": (UNet2DConditionModel, {**_TEXT, **_CROSS, "in_channels": 4}),
    "sd21": (
        UNet2DConditionModel,
        {**_TEXT, **_CROSS, "in_channels": 4, "use_linear_projection": True, "upcast_attention": True},
    ),
    "sd with a mask": (UNet2DConditionModel, {**_TEXT, "in_channels": 9}),
    "sdxl": (UNet2DConditionModel, {**_XL, "in_channels": 4}),
    "refiner": (UNet2DConditionModel, {**_XL, "in_channels": 4, "projection_class_embeddings_input_dim": 5 * 8 + 24}),
    "sdxl with a mask": (UNet2DConditionModel, {**_XL, "in_channels": 9}),
    "pix2pix": (UNet2DConditionModel, {**_TEXT, "in_channels": 8}),
    "upscale": (
        UNet2DConditionModel,
        {**_TEXT, **_CROSS, "in_channels": 7, "num_class_embeds": 1000, "only_cross_attention": True},
    ),
    "lcm": (UNet2DConditionModel, {**_TEXT, "in_channels": 4, "time_cond_proj_dim": 8}),
    "ddpm": (UNet2DModel, {**_BLOCK, **_PLAIN, "in_channels": 3, "out_channels": 3, "add_attention": False}),
    "svd": (
        UNetSpatioTemporalConditionModel,
        {
            "sample_size": 8,
            "in_channels": 8,
            "out_channels": 4,
            "num_frames": 3,
            "layers_per_block": 1,
            "block_out_channels": (32,),  # it always has 32 groups
            "down_block_types": ("DownBlockSpatioTemporal",),
            "up_block_types": ("UpBlockSpatioTemporal",),
            "num_attention_heads": 2,
            "cross_attention_dim": 32,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 3 * 8,
        },
    ),
}


@functools.cache
def unet(name: str) -> Any:
    """One instance for each test process; tests must not change its weights."""
    model_class, config = _UNETS[name]
    torch.manual_seed(0)
    return model_class(**config).eval()


@functools.cache
def components_of(kind: str) -> dict[str, Any]:
    """All of a pipeline but its U-Net, shared by all of a test process, as is the scheduler that they start with."""
    if kind == "svd":
        return _video_components()
    if kind == "sd21":
        own = components_of("sd")
        scheduler = DDIMScheduler.from_config(own["scheduler"].config, prediction_type="v_prediction")
        return {**own, "scheduler": scheduler}
    if kind == "sd upscale":
        vae = tiny.new_part("vae")
        vae.register_to_config(scaling_factor=0.08333)  # which its pipeline else sets, with a warning
        parts = {name: components_of("sd")[name] for name in ("text_encoder", "tokenizer", "scheduler")}
        return {**parts, "vae": vae, "low_res_scheduler": DDPMScheduler()}
    if kind == "sdxl refiner":
        base = components_of("sdxl")
        parts = {name: base[name] for name in ("vae", "tokenizer_2", "scheduler")}
        config = {**base["text_encoder_2"].config.to_dict(), "projection_dim": 24, "hidden_size": 64}
        encoder = model_from_config(CLIPTextModelWithProjection, config)
        return {**parts, "text_encoder": None, "tokenizer": None, "text_encoder_2": encoder}
    if kind == "ddpm":
        # Its images are cut to [0, 1]: those of a model that predicts images are not all 0 and 1.
        return {"scheduler": DDPMScheduler(clip_sample=False, prediction_type="sample")}
    pipe: Any = tiny.stable_diffusion_xl() if kind == "sdxl" else tiny.stable_diffusion()
    return {name: part for name, part in pipe.components.items() if name != "unet"}


def _video_components() -> dict[str, Any]:
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision |= {"image_size": 64, "patch_size": 32, "projection_dim": 32}
    return {
        "vae": tiny.part("temporal_vae"),
        "image_encoder": model_from_config(CLIPVisionModelWithProjection, vision),
        "scheduler": EulerDiscreteScheduler(**_SVD_SCHEDULER),
        "feature_extractor": CLIPImageProcessor(crop_size=64, size=64),
    }


@functools.cache
def controlnet(of: str, seed: int = 0) -> Any:
    """A ControlNet for a U-Net, one instance for each test process."""
    return tiny.new_controlnet(unet(of), seed=seed)


def tiny_vae() -> Any:
    """A small one, that makes eight pixels of each latent as a large one does."""
    torch.manual_seed(0)
    blocks = {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    channels = {"encoder_block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8)}
    model: Any = AutoencoderTiny(**blocks, **channels)
    return model.eval()
