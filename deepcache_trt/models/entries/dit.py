"""DiT (Peebles and Xie 2023), of classes of ImageNet."""

from deepcache_trt.models.entries.entry import Config, Entry, ModelConfig
from deepcache_trt.models.entries.stable_diffusion import vae
from deepcache_trt.models.families.dit import DIT as FAMILY
from deepcache_trt.models.originals.dit import DIT as ORIGINAL

_DIT: Config = {
    "num_attention_heads": 16,
    "in_channels": 4,
    "out_channels": 8,  # the second half is the learned variance
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "attention_bias": True,
}
_XL: Config = {**_DIT, "attention_head_dim": 72, "num_layers": 28}
_L: Config = {**_DIT, "attention_head_dim": 64, "num_layers": 24}


def _dit(source: str | None, transformer: Config, latents: int) -> Entry:
    """A DiT for latents of some height and width."""
    model = ModelConfig(family=FAMILY, config={**transformer, "sample_size": latents})
    return Entry(source=source, parts={"transformer": model, "vae": vae({"sample_size": 256})}, original=ORIGINAL)


DIT: dict[str, Entry] = {
    "dit-xl-2-256": _dit("facebook/DiT-XL-2-256", _XL, 32),
    "dit-xl-2-512": _dit("facebook/DiT-XL-2-512", _XL, 64),
    "dit-l-2-256": _dit(None, _L, 32),
}
