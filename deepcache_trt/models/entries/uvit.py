"""U-ViT (Bao et al. 2023), of classes of ImageNet."""

from deepcache_trt.models.entries.entry import Entry, ModelConfig
from deepcache_trt.models.entries.stable_diffusion import vae
from deepcache_trt.models.families.uvit import UVIT as FAMILY
from deepcache_trt.models.originals.uvit import UVIT as ORIGINAL


def _huge(latents: int, patch: int) -> Entry:
    """U-ViT-H for latents of some height and width."""
    model = ModelConfig(
        family=FAMILY,
        config={
            "sample_size": latents,
            "patch_size": patch,
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "num_layers": 28,
            "num_classes": 1001,
        },
    )
    return Entry(source=None, parts={"transformer": model, "vae": vae({"sample_size": 256})}, original=ORIGINAL)


UVIT: dict[str, Entry] = {"uvit-h-2-256": _huge(32, 2), "uvit-h-4-512": _huge(64, 4)}
