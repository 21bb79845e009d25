"""The covered architectures at test size, with seeded random weights."""

import functools
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DDIMScheduler,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    UNetSpatioTemporalConditionModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.fresh import model_from_config

_SD15 = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
_SDXL = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 4, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
}
_CLIP = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "projection_dim": 24,
    "bos_token_id": 97,
}

ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd15": (UNet2DConditionModel, _SD15),
    "sd21": (
        UNet2DConditionModel,
        {**_SD15, "attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True, "upcast_attention": True},
    ),
    "sdxl": (UNet2DConditionModel, _SDXL),
    "svd": (
        UNetSpatioTemporalConditionModel,
        {
            "sample_size": 8,
            "in_channels": 8,
            "out_channels": 4,
            "num_frames": 3,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "num_attention_heads": (2, 4),
            "cross_attention_dim": 32,
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 96,
        },
    ),
    "ddpm": (
        UNet2DModel,
        {
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 2,
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_num_groups": 8,
        },
    ),
    "dit": (
        DiTTransformer2DModel,
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 4,
            "sample_size": 8,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 10,
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
            "attention_bias": True,
        },
    ),
}
# The parts beside the denoiser.
PARTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vae": (
        AutoencoderKL,
        {
            "block_out_channels": (8, 8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 64,
        },
    ),
    "temporal_vae": (
        AutoencoderKLTemporalDecoder,
        {
            "block_out_channels": (32, 32, 32, 32),  # it always has 32 groups
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "layers_per_block": 2,  # its only attention is that between two
            "latent_channels": 4,
            "sample_size": 64,
        },
    ),
    "vq_model": (
        VQModel,
        {
            "block_out_channels": (8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "norm_num_groups": 4,
        },
    ),
    # 2 stands for the highest id, as in all published configs.
    "clip": (CLIPTextModel, {**_CLIP, "eos_token_id": 2, "hidden_act": "quick_gelu"}),
    "clip_projection": (CLIPTextModelWithProjection, {**_CLIP, "eos_token_id": 60, "hidden_act": "gelu"}),
}
UNETS = [name for name in ARCHITECTURES if name != "dit"]


@functools.cache
def denoiser(name: str) -> Any:
    """The model called `name`, one instance for each test process; tests must not change its weights."""
    return new_denoiser(name)


def new_denoiser(name: str, *, seed: int = 0) -> Any:
    """Another instance of the model called `name`, whose weights may be changed."""
    model_class, config = ARCHITECTURES[name]
    torch.manual_seed(seed)
    return model_class(**config).eval()


@functools.cache
def controlnet(unet: str = "sd15", *, seed: int = 0, pooled: bool = False) -> Any:
    """A ControlNet for the U-Net called `unet`, one instance for each test process.

    Args:
        unet: as in `denoiser`.
        seed: of the layers that it does not have from the U-Net.
        pooled: give residuals of one row and one column, as a shuffle ControlNet does.
    """
    return new_controlnet(denoiser(unet), seed=seed, pooled=pooled)


def new_controlnet(unet: Any, *, seed: int = 0, pooled: bool = False) -> Any:
    """A ControlNet for a U-Net, whose residuals are not zero as those of a new one are."""
    torch.manual_seed(seed)
    model = ControlNetModel.from_unet(unet).eval()
    model.register_to_config(global_pool_conditions=pooled)
    for zero in (*model.controlnet_down_blocks, model.controlnet_mid_block):
        zero.reset_parameters()
    # The control image has faded in the random layers before.
    torch.nn.init.normal_(model.controlnet_cond_embedding.conv_out.weight, std=10)
    return model


@functools.cache
def part(name: str) -> Any:
    """The part called `name`, one instance for each test process; tests must not change it."""
    return new_part(name)


def new_part(name: str) -> Any:
    """Another instance of it with the same weights."""
    torch.manual_seed(0)
    return model_from_config(*PARTS[name])


def tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(f"{resolve('digits')}/tokenizer")


def _text_config(vocabulary: Any) -> CLIPTextConfig:
    return CLIPTextConfig.from_dict(
        {
            "vocab_size": len(vocabulary),
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": vocabulary.model_max_length,
            "projection_dim": 32,
            "bos_token_id": vocabulary.bos_token_id,
            "eos_token_id": vocabulary.eos_token_id,
            "pad_token_id": vocabulary.pad_token_id,
        }
    )


def stable_diffusion(unet: str = "sd15") -> Any:
    """A plain pipeline around the test-size SD1.5 or SD2.1 U-Net."""
    vocabulary = tokenizer()
    torch.manual_seed(0)
    pipe: Any = StableDiffusionPipeline(
        vae=part("vae"),
        text_encoder=CLIPTextModel(_text_config(vocabulary)).eval(),
        tokenizer=vocabulary,
        unet=denoiser(unet),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl() -> Any:
    """A plain pipeline around the test-size SDXL U-Net."""
    vocabulary = tokenizer()
    torch.manual_seed(0)
    pipe: Any = StableDiffusionXLPipeline(
        vae=part("vae"),
        text_encoder=CLIPTextModel(_text_config(vocabulary)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(vocabulary)).eval(),
        tokenizer=vocabulary,
        tokenizer_2=vocabulary,
        unet=denoiser("sdxl"),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_controlnet(controlnets: Any = None) -> Any:
    """`stable_diffusion` with one ControlNet or with several."""
    plain = stable_diffusion()
    pipe: Any = StableDiffusionControlNetPipeline(
        **plain.components, controlnet=controlnets or controlnet(), requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl_controlnet() -> Any:
    """`stable_diffusion_xl` with a ControlNet."""
    plain = stable_diffusion_xl()
    pipe: Any = StableDiffusionXLControlNetPipeline(
        **plain.components, controlnet=controlnet("sdxl"), add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def digits() -> Any:
    """The bundled model in fp32."""
    pipe: Any = StableDiffusionPipeline.from_pretrained(resolve("digits"), dtype=torch.float32, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


PIPELINES = {"sd15": stable_diffusion, "sdxl": stable_diffusion_xl, "digits": digits}
