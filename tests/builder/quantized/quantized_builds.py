"""Components that are quantized with scales of seeded inputs, and one whose calibration is counted."""

from collections.abc import Mapping

from diffusers import UNet2DModel

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.quantizing import Calibration
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.export.precision import INT8, Precision
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.policies import DeepCache, Policy

POLICY = DeepCache(cache_interval=3)


def smallest(dtype: str) -> Component:
    """A U-Net of two blocks, which is exported in seconds."""
    config = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return from_architecture(UNet2DModel, config, name="smallest", part="unet", dtype=dtype)


def int8(component: Component, *patterns: str, policy: Policy = POLICY) -> Component:
    return quantized(component, policy, INT8, patterns, seeded_calibration(component))


class Counted:
    """A calibration that counts how often the model is observed."""

    def __init__(self, component: Component) -> None:
        self.count = 0
        self._seeded = seeded_calibration(component)

    def calibration(self, **about: str) -> Calibration:
        def observe(progress: Progress, precision: Precision) -> Mapping[str, float]:
            self.count += 1
            return self._seeded.observe(progress, precision)

        return Calibration(about={**self._seeded.about, **about}, observe=observe, in_words="counted")
