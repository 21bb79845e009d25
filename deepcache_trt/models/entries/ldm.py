"""Latent diffusion (Rombach et al. 2022)."""

from deepcache_trt.models.entries.entry import Entry, ModelConfig, TorchConfig
from deepcache_trt.models.families.decoders.vq_model import VQ_MODEL
from deepcache_trt.models.families.unet_2d_condition import UNET_2D_CONDITION
from deepcache_trt.models.originals.ldm import LDM as ORIGINAL

# vq-f4: codes of three numbers, each for 4×4 pixels; its latents are not scaled.
_VQ_F4 = ModelConfig(
    family=VQ_MODEL,
    config={
        "sample_size": 256,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (128, 256, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "latent_channels": 3,
        "vq_embed_dim": 3,
        "num_vq_embeddings": 8192,
        "scaling_factor": 1.0,
    },
)

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
                    "attention_head_dim": 1,  # heads, whatever their size (cin256-v2.yaml: num_heads)
                },
            ),
            "vqvae": _VQ_F4,
        },
        original=ORIGINAL,
        beside={
            "class_embedder": TorchConfig(
                library="deepcache_trt.models.definitions.ldm",
                class_name="ClassEmbedder",
                config={"num_classes": 1001, "embed_dim": 512},
            )
        },
    ),
}
