"""Latent diffusion (Rombach et al. 2022)."""

from deepcache_trt.models.entries.entry import Entry, ModelConfig
from deepcache_trt.models.families.unet_2d_condition import UNET_2D_CONDITION

LDM: dict[str, Entry] = {
    # Conditioned on classes of ImageNet, each as one token; latents of 64×64 are images of 256×256 here.
    "ldm-4-g": Entry(
        source=None,
        parts={
            "unet": ModelConfig(
                family=UNET_2D_CONDITION,
                config={
                    "sample_size": 64,
                    "in_channels": 3,
                    "out_channels": 3,
                    "layers_per_block": 2,
                    "block_out_channels": (192, 384, 576, 960),
                    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
                    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
                    "cross_attention_dim": 512,
                    "attention_head_dim": (6, 12, 18, 30),  # heads, of 32 channels each
                },
            ),
        },
    ),
}
