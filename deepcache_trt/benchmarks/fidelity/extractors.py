"""What makes features of images, by name: torch-fidelity's Inception, and the reader of the bundled model's digits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean

Features = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A feature extractor, not yet loaded.

    Attributes:
        option: what --extractor calls it.
        name: as statistics keep it.
        resize: how it brings images to its size.
        cure: which of the cures of `distances` helps where it cannot be had.
        load: gives what makes features [N, D] of images [N, H, W, 3] uint8.
    """

    option: str
    name: str
    resize: str
    cure: str
    load: Callable[[], Features]

    def loaded(self) -> Features:
        """The function.

        Raises:
            DeepCacheError: its package or its weights are not here; the message says what to put where.
        """
        found, absent = available({self.cure: self.load})
        if absent:
            raise DeepCacheError(f"the extractor {self.option!r} cannot be had: {absent[self.cure]}")
        function: Features = found[self.cure]
        return function


def _inception() -> Features:
    import torch
    from torch_fidelity.utils import create_feature_extractor

    on_gpu = torch.cuda.is_available()
    network = create_feature_extractor("inception-v3-compat", ["2048"], cuda=on_gpu, verbose=False)

    @torch.no_grad()
    def features(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        found: np.ndarray = network(pixels.cuda() if on_gpu else pixels)[0].cpu().numpy()
        return found

    return features


def _digits() -> Features:
    from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight

    reader = DigitReader()

    def features(images: np.ndarray) -> np.ndarray:
        if images.shape[1] % 8 or images.shape[2] % 8:
            raise DeepCacheError(
                f"images of {images.shape[1]}×{images.shape[2]} pixels have no 8×8 areas; give such as the digits are"
            )
        return reader.margins(to_eight(images.transpose(0, 3, 1, 2) / 255))

    return features


_EXTRACTORS = {
    each.option: each
    for each in (
        Extractor(
            option="inception",
            name="torch-fidelity inception-v3-compat, 2048",
            resize="299×299, bilinear as TensorFlow 1",
            cure="fid, kid, inception_score",
            load=_inception,
        ),
        Extractor(
            option="digits",
            name="margins of the digit reader, 45",
            resize="8×8, means of areas",
            cure="accuracy, frechet",
            load=_digits,
        ),
    )
}


def extractor_called(option: str) -> Extractor:
    """The extractor of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if option not in _EXTRACTORS:
        raise UnknownNameError(
            f"unknown extractor {option!r}{did_you_mean(option, list(_EXTRACTORS))}; there are {', '.join(_EXTRACTORS)}"
        )
    return _EXTRACTORS[option]
