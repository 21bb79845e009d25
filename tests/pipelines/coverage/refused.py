"""Pipelines that cannot be cached, around models of the smallest size, and how they are refused."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet

from tests import tiny
from tests.pipelines.micro import STRAIGHT
from tests.pipelines.micro_parts import unet

_TEXT_UNET = {"block_out_channels": (8,), "norm_num_groups": 4, "cross_attention_dim": 32, "layers_per_block": 1}
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "in_channels": 4}
_UNPROMPTED = dict.fromkeys(("text_encoder", "tokenizer"))
_UNPROMPTED_2 = {**_UNPROMPTED, **dict.fromkeys(("text_encoder_2", "tokenizer_2"))}
_UNPROMPTED_3 = {**_UNPROMPTED_2, **dict.fromkeys(("text_encoder_3", "tokenizer_3"))}
_FLOW = diffusers.FlowMatchEulerDiscreteScheduler


def animate_diff() -> Any:
    model = diffusers.UNetMotionModel(
        **_TEXT_UNET,
        down_block_types=("DownBlockMotion",),
        up_block_types=("UpBlockMotion",),
        num_attention_heads=2,
        motion_num_attention_heads=2,
    )
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8,), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4
    )
    parts = {"vae": tiny.part("vae"), "motion_adapter": adapter, "scheduler": diffusers.DDIMScheduler()}
    return diffusers.AnimateDiffPipeline(unet=model, **parts, **_UNPROMPTED)


def kandinsky() -> Any:
    model = diffusers.UNet2DConditionModel(
        **_TEXT_UNET | {"block_out_channels": (8, 8)},
        in_channels=4,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=4,
        addition_embed_type="image",
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
    )
    movq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4)
    return diffusers.KandinskyV22Pipeline(unet=model, movq=movq, scheduler=diffusers.DDIMScheduler())


def latent_upscale() -> Any:
    model = diffusers.UNet2DConditionModel(
        **_TEXT_UNET | {"block_out_channels": (32, 32), "norm_num_groups": None},
        in_channels=8,
        out_channels=5,
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"),
        attention_head_dim=8,
        conv_in_kernel=1,
        conv_out_kernel=1,
        resnet_time_scale_shift="scale_shift",
        time_cond_proj_dim=160,
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    parts = {"vae": tiny.part("vae"), "scheduler": diffusers.EulerDiscreteScheduler()}
    return diffusers.StableDiffusionLatentUpscalePipeline(unet=model, **parts, **_UNPROMPTED)


def pixart() -> Any:
    model = diffusers.PixArtTransformer2DModel(
        **_HEADS, out_channels=8, sample_size=8, cross_attention_dim=8, caption_channels=8
    )
    parts = {"vae": tiny.part("vae"), "scheduler": diffusers.DDIMScheduler()}
    return diffusers.PixArtAlphaPipeline(transformer=model, **parts, **_UNPROMPTED)


def stable_diffusion_3() -> Any:
    model = diffusers.SD3Transformer2DModel(
        **_HEADS, sample_size=8, joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8
    )
    return diffusers.StableDiffusion3Pipeline(transformer=model, vae=None, scheduler=_FLOW(), **_UNPROMPTED_3)


def flux() -> Any:
    model = diffusers.FluxTransformer2DModel(
        **_HEADS, num_single_layers=1, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(0, 2, 2)
    )
    return diffusers.FluxPipeline(transformer=model, vae=None, scheduler=_FLOW(), **_UNPROMPTED_2)


def cascade() -> Any:
    model = StableCascadeUNet(
        block_out_channels=(8, 8),
        num_attention_heads=(0, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock",), ("SDCascadeResBlock",)),
        switch_level=(True,),
        conditioning_dim=8,
        timestep_ratio_embedding_dim=8,
    )
    scheduler = diffusers.DDPMWuerstchenScheduler()
    return diffusers.StableCascadeDecoderPipeline(decoder=model, vqgan=None, scheduler=scheduler, **_UNPROMPTED)


CLASSES = "UNet2DConditionModel, UNet2DModel, UNetSpatioTemporalConditionModel, DiTTransformer2DModel, UViT"
WITHOUT = f"covered are {CLASSES}; run this pipeline with diffusers alone"
# How the message begins, and what it says is covered.
REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (animate_diff, "UNetMotionModel, the unet of AnimateDiffPipeline, is not covered", WITHOUT),
    (pixart, "PixArtTransformer2DModel, the transformer of PixArtAlphaPipeline, is not covered", WITHOUT),
    (stable_diffusion_3, "SD3Transformer2DModel, the transformer of StableDiffusion3Pipeline, is not cov", WITHOUT),
    (flux, "FluxTransformer2DModel, the transformer of FluxPipeline, is not covered", WITHOUT),
    (cascade, "StableCascadeDecoderPipeline has no unet and no transformer that could be cached", WITHOUT),
    (
        kandinsky,
        "UNet2DConditionModel with ResnetDownsampleBlock2D, ResnetUpsampleBlock2D, SimpleCrossAttnDownBlock2D, "
        "SimpleCrossAttnUpBlock2D, UNetMidBlock2DSimpleCrossAttn is not covered",
        "covered blocks are AttnDownBlock2D, AttnUpBlock2D, CrossAttnDownBlock2D, ",
    ),
    (
        latent_upscale,
        "UNet2DConditionModel with KCrossAttnDownBlock2D, KCrossAttnUpBlock2D, KDownBlock2D, KUpBlock2D, no mid block "
        "is not covered",
        "covered blocks are AttnDownBlock2D, AttnUpBlock2D, CrossAttnDownBlock2D, ",
    ),
]


# Pipelines that have a covered U-Net, and give it at each call what its graph does not have.


def t2i_adapter() -> tuple[Any, dict[str, Any]]:
    adapter = diffusers.T2IAdapter(channels=(8, 8), num_res_blocks=1, downscale_factor=8, in_channels=3)
    pipe = _around("StableDiffusionAdapterPipeline", adapter=adapter)
    return pipe, {"image": torch.ones(1, 3, 64, 64), "height": 64, "width": 64}


def gligen() -> tuple[Any, dict[str, Any]]:
    pipe = _around("StableDiffusionGLIGENPipeline")
    config = {name: value for name, value in unet("sd").config.items() if not name.startswith("_")}
    pipe.register_modules(unet=diffusers.UNet2DConditionModel(**config | {"attention_type": "gated"}))
    return pipe, {"gligen_phrases": ["a seven"], "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]], "height": 64, "width": 64}


def _around(pipeline: str, **more: Any) -> Any:
    parts = {name: part for name, part in STRAIGHT["sd"].new().components.items() if name != "image_encoder"}
    pipe = getattr(diffusers, pipeline)(**parts, **more, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
