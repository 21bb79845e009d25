"""What pictures are worth by themselves, without a reference of the same seed.

CLIP score as DeepCache measures it, and FID, KID and Inception score of folders by torch-fidelity. Where a package or
its weights are not here they raise one of `fidelity.ABSENCE`.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.errors import DeepCacheError

# As tables and reasons name it.
CLIP = "clip_score"

# DeepCache's choice.
CLIP_MODEL, CLIP_WEIGHTS = "ViT-g-14", "laion2b_s34b_b88k"

# torch-fidelity's own, which are too many for a few pictures.
_KID_SUBSET, _SPLITS = 1000, 10
_CLIP_BATCH = 16


class ClipScore:
    """100 · the cosine between a picture and its prompt, but at least 0, by open_clip."""

    def __init__(self, model: str = CLIP_MODEL, weights: str | None = CLIP_WEIGHTS) -> None:
        """Load the model, which may download its weights."""
        import open_clip

        self._model, _, self._preprocess = open_clip.create_model_and_transforms(model, pretrained=weights)
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(model)

    @classmethod
    def loaded(cls, model: str, weights: str) -> Self:
        """The same.

        Args:
            model: an architecture of open_clip.
            weights: a name of open_clip's, or a file.

        Raises:
            DeepCacheError: it cannot be had here; the message says what to do.
        """
        found, absent = available({CLIP: lambda: cls(model, weights)})
        if absent:
            raise DeepCacheError(f"no CLIP score by {model}, {weights}: {absent[CLIP]}")
        score: Self = found[CLIP]
        return score

    def __call__(self, pictures: np.ndarray, prompts: Sequence[str]) -> float:
        """The mean over pictures [N, 3, H, W] in 0…1 and as many prompts."""
        import torch

        cosines: list[float] = []
        for start in range(0, len(prompts), _CLIP_BATCH):
            part = slice(start, start + _CLIP_BATCH)
            images = torch.stack([self._preprocess(as_image(picture)) for picture in pictures[part]])
            with torch.no_grad():
                seen = self._model.encode_image(images, normalize=True)
                read = self._model.encode_text(self._tokenize(list(prompts[part])), normalize=True)
            cosines += (seen * read).sum(dim=1).tolist()
        return float(np.mean([max(100 * cosine, 0) for cosine in cosines]))


def folder_scores(pictures: Path, reference: Path) -> Mapping[str, float]:
    """FID and KID of a folder of pictures against another one, and its own Inception score.

    Both hold images of one size, which torch-fidelity resizes to 299 pixels as TensorFlow 1 does; figures are
    comparable only with those of the same library and rule, see `folder_rule`.
    """
    from torch_fidelity import calculate_metrics

    fewest = min(len(images_in(folder)) for folder in (pictures, reference))
    found = calculate_metrics(
        input1=str(pictures),
        input2=str(reference),
        cuda=False,
        isc=True,
        isc_splits=min(_SPLITS, fewest),
        fid=True,
        kid=True,
        kid_subset_size=min(_KID_SUBSET, fewest),
        cache=False,
        verbose=False,
    )
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
    }
    return {name: float(found[theirs]) for name, theirs in names.items()}


def folder_rule() -> str:
    """The library and the resize rule of `folder_scores`, without which its figures mean nothing."""
    return (
        f"torch-fidelity {version('torch-fidelity')}, inception-v3-compat, resized to 299×299 bilinearly as "
        "TensorFlow 1 does"
    )


def images_in(folder: Path) -> list[Path]:
    """The images of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def as_image(picture: np.ndarray) -> Any:
    """A picture [3, H, W] in 0…1 as an 8-bit PIL image."""
    from PIL import Image

    return Image.fromarray((255 * picture.transpose(1, 2, 0)).round().clip(0, 255).astype(np.uint8))
