"""What the papers measured, to be set beside what is measured here where it is the same thing.

Sources: DeepCache (arXiv 2312.00858), tables 1 to 5 and the ablation of branches; Learning-to-Cache (arXiv
2406.01733), table 1. FIDs are of 50,000 images, by the evaluators that the papers name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.runtime.policies import DeepCache, Router, Uncached


@dataclass(frozen=True, kw_only=True)
class Published:
    """Of one way to draw; None: not told."""

    fid: float | None = None
    speedup: float | None = None
    clip: float | None = None

    def scores(self) -> dict[str, float]:
        """By the names that scores have."""
        found = {"published_fid": self.fid, "published_speedup": self.speedup, "published_clip": self.clip}
        return {name: value for name, value in found.items() if value is not None}


# (interval, branch) of DeepCache → what was published; interval 1 caches nothing.
_Table = Mapping[tuple[int, int], Published]

_CIFAR_BRANCHES = (7.14, 5.94, 5.73, 5.69, 5.51, 4.93, 4.92, 4.76, 4.54, 4.57, 4.52, 4.48)

# (model, steps) → table.
_DEEPCACHE: Mapping[tuple[str, int], _Table] = {
    ("ddpm-cifar10", 100): {
        **{(5, branch): Published(fid=fid) for branch, fid in enumerate(_CIFAR_BRANCHES)},
        (1, 0): Published(fid=4.16, speedup=1.0),
        (2, 2): Published(fid=4.35, speedup=1.40),
        (3, 2): Published(fid=4.70, speedup=1.61),
        (5, 2): Published(fid=5.73, speedup=1.85),
        (10, 2): Published(fid=9.74, speedup=2.07),
    },
    ("ddpm-bedroom", 100): {
        (1, 0): Published(fid=6.70, speedup=1.0),
        (2, 2): Published(fid=6.69, speedup=1.29),
        (3, 2): Published(fid=7.20, speedup=1.43),
        (5, 2): Published(fid=9.49, speedup=1.48),
    },
    ("ddpm-church", 100): {
        (1, 0): Published(fid=10.87),
        (2, 2): Published(fid=11.31),
        (3, 2): Published(fid=11.75),
        (5, 2): Published(fid=13.68),
    },
    ("ldm-4-g", 250): {
        (1, 0): Published(fid=3.37, speedup=1.0),
        (2, 0): Published(fid=3.39, speedup=1.88),
        (3, 0): Published(fid=3.44, speedup=2.65),
        (5, 0): Published(fid=3.59, speedup=4.12),
        (10, 0): Published(fid=4.41, speedup=6.96),
        (20, 0): Published(fid=8.23, speedup=10.54),
    },
}

# (model, steps) → uncached, and with the router that was published for it.
_ROUTED: Mapping[tuple[str, int], tuple[Published, Published]] = {
    ("dit-xl-2-256", 50): (Published(fid=2.26), Published(fid=2.27, speedup=1.30)),
    ("dit-xl-2-256", 20): (Published(fid=3.48), Published(fid=3.46, speedup=1.27)),
    ("dit-xl-2-256", 10): (Published(fid=12.38), Published(fid=12.79, speedup=1.10)),
    ("dit-xl-2-512", 50): (Published(fid=3.28), Published(fid=3.69, speedup=1.67)),
    ("dit-l-2-256", 50): (Published(fid=4.82), Published(fid=4.82, speedup=1.26)),
    ("dit-l-2-256", 20): (Published(fid=6.45), Published(fid=6.55, speedup=1.26)),
}

# Distilled U-Nets of Stable Diffusion 1.5 beside it, on PartiPrompts, with PLMS-50.
_BK_SDM: Mapping[str, Published] = {
    "uncached": Published(speedup=1.0, clip=29.51),
    "bk-sdm-base": Published(speedup=1.49, clip=28.88),
    "bk-sdm-small": Published(speedup=1.75, clip=27.94),
    "bk-sdm-tiny": Published(speedup=1.81, clip=27.36),
}


def bk_sdm(model: str, steps: int) -> Mapping[str, Published]:
    """Of a model and its distilled ones, by the names of cells; none where nobody measured it."""
    return _BK_SDM if (Path(model).name, steps) == ("sd15", 50) else {}


# GMACs of a full step, as the papers count: without the products of attention.
_GMACS: Mapping[str, float] = {
    "sd15": 338.83,
    "bk-sdm-base": 223.81,
    "bk-sdm-small": 217.78,
    "bk-sdm-tiny": 205.09,
    "ldm-4-g": 99.82,
    "ddpm-cifar10": 6.1,
    "ddpm-bedroom": 248.7,
}


def published_gmacs(model: str) -> float | None:
    """Of a full step at the model's own size; None where nobody told them."""
    return _GMACS.get(Path(model).name)


def published(model: str, steps: int, cell: Cell) -> Published | None:
    """Of a cell without prompts; None where nobody measured it.

    Args:
        model: a name of the catalogue, or a folder that is called so.
        steps: of denoising that were asked for.
        cell: which one.
    """
    name, steps = Path(model).name, cell.steps or steps
    if (name, steps) in _ROUTED:
        uncached, routed = _ROUTED[name, steps]
        return {Uncached: uncached, Router: routed}.get(type(cell.policy))
    table = _DEEPCACHE.get((name, steps), {})
    if isinstance(cell.policy, Uncached):
        return table.get((1, 0))
    if isinstance(cell.policy, DeepCache) and cell.policy.skip_mode == "uniform":
        return table.get((cell.policy.cache_interval, cell.policy.cache_branch_id))
    return None
