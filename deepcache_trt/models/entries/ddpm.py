"""DDPM (Ho et al. 2020), whose latents are pixels."""

from deepcache_trt.models.entries.entry import Config, Entry, ModelConfig
from deepcache_trt.models.families.unet_2d import UNET_2D
from deepcache_trt.models.originals.ddim import DDIM

_DDPM: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
_DDPM_256: Config = {
    **_DDPM,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
}


def _ddpm(source: str, unet: Config) -> Entry:
    return Entry(source=source, parts={"unet": ModelConfig(family=UNET_2D, config=unet)}, original=DDIM)


DDPM: dict[str, Entry] = {
    "ddpm-cifar10": _ddpm(
        "google/ddpm-cifar10-32",
        {
            **_DDPM,
            "sample_size": 32,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        },
    ),
    "ddpm-bedroom": _ddpm("google/ddpm-bedroom-256", _DDPM_256),
    "ddpm-church": _ddpm("google/ddpm-church-256", _DDPM_256),
}
