"""How far what was drawn is from the uncached output of the same seed.

Latents are [B, C, …]; pictures are [B, 3, H, W] float32 in 0…1. What cannot be had on a machine, a package or its
weights, is absent with its reason and the cure, and never an error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepcache_trt.errors import first_line

# The largest difference of two pictures.
_PEAK = 1.0

_SSIM_EDGE = 5  # pixels: half of its window of 11

# What a library raises where a package or its weights are not there: torchvision beside another build of torch gives a
# RuntimeError, and so does open_clip; a download that fails is an OSError.
ABSENCE = (ImportError, OSError, RuntimeError)

_PACKAGES = "pip install 'deepcache-trt[eval]'"
_CURES = {
    "ssim": _PACKAGES,
    "lpips": f"{_PACKAGES}, and let it download AlexNet's weights once, or put alexnet-owt-7be5be79.pth into "
    "$TORCH_HOME/hub/checkpoints",
    "clip_score": f"{_PACKAGES}, and let it download the 5 GB of ViT-g-14 laion2b_s34b_b88k once",
    "fid, kid, inception_score": f"{_PACKAGES}, and let it download Inception's weights once, or put "
    "weights-inception-2015-12-05-6726825d.pth into $TORCH_HOME/hub/checkpoints",
    "accuracy, frechet": _PACKAGES,
    "plot": _PACKAGES,
}


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """The comparisons of pictures that can be made here.

    Attributes:
        functions: by name; each takes the reference's pictures and others, and gives their mean over the batch.
        absent: why the others cannot be made, with the cure, by name.
    """

    functions: Mapping[str, Callable[[np.ndarray, np.ndarray], float]]
    absent: Mapping[str, str] = field(default_factory=dict)


def relative_error(reference: Any, found: Any) -> float:
    """‖x − x₀‖ / ‖x₀‖ of arrays or tensors of one shape."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(reference)) / np.linalg.norm(np.asarray(reference)))


def decibels(mse: float, peak: float) -> float:
    """Peak signal-to-noise ratio; infinite where nothing differs."""
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


def image_psnr(reference: Sequence[Any], images: Sequence[Any]) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit images; infinite where they are equal."""
    errors = [np.asarray(a, dtype=np.float64) - np.asarray(b) for a, b in zip(reference, images, strict=True)]
    mse = float(np.mean([np.mean(error**2) for error in errors]))
    return decibels(mse, 255)


def latent_distances(reference: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    """How far latents are from the reference's; None where that is no finite number.

    "mse", "error" (see `relative_error`), "max_abs", and "psnr_db", which takes the range of the reference as the peak.
    """
    difference = found.astype(np.float64) - reference
    mse = float(np.mean(difference**2))
    distances = {
        "mse": mse,
        "error": relative_error(reference, found),
        "max_abs": float(np.abs(difference).max()),
        "psnr_db": decibels(mse, float(np.ptp(reference))),
    }
    return {name: finite(value) for name, value in distances.items()}


def finite(value: float) -> float | None:
    """The value, or None for what JSON lacks."""
    return value if math.isfinite(value) else None


def available(loaders: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """What each loader gives, by name; and of those that lack a package or weights, why and the cure."""
    loaded: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, load in loaders.items():
        try:
            loaded[name] = load()
        except ABSENCE as error:
            absent[name] = f"{first_line(error)}; {_CURES[name]}"
    return loaded, absent


def comparisons() -> Comparisons:
    """PSNR in dB, SSIM and LPIPS, as far as their packages and weights are here."""
    loaded, absent = available({"ssim": _ssim, "lpips": _lpips})
    return Comparisons(functions={"psnr_db": psnr, **loaded}, absent=absent)


def psnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Of pictures, by the mean of their squared differences; infinite where they are equal."""
    return decibels(float(np.mean((found.astype(np.float64) - reference) ** 2)), _PEAK)


def _ssim() -> Callable[[np.ndarray, np.ndarray], float]:
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    def ssim(reference: np.ndarray, found: np.ndarray) -> float:
        pictures = torch.from_numpy(found), torch.from_numpy(reference)
        _, similarity = structural_similarity_index_measure(*pictures, data_range=_PEAK, return_full_image=True)
        # Where a whole window fits in, as Wang et al. (2004) have it; beyond that pixels are mirrored.
        return float(similarity[..., _SSIM_EDGE:-_SSIM_EDGE, _SSIM_EDGE:-_SSIM_EDGE].mean())

    return ssim


def _lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    import torch
    import torchvision  # noqa: F401 - torchmetrics says only that it is not there
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)  # pictures are in 0…1

    @torch.no_grad()
    def lpips(reference: np.ndarray, found: np.ndarray) -> float:
        return float(network(torch.from_numpy(found), torch.from_numpy(reference)))

    return lpips
