"""What makes features of images, by name: torch-fidelity's Inception, and the reader of the bundled model's digits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.fidelity.figures import Reading
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader

Read = Callable[[np.ndarray], Reading]


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A feature extractor, not yet loaded.

    Attributes:
        option: what --extractor calls it.
        name: as statistics keep it.
        resize: how it brings images to its size.
        others: what its spatial features and its classes are, for a person.
        cure: which of the cures of `distances` helps where it cannot be had.
        load: gives what reads images [N, H, W, 3] uint8.
        real: reads the real images that those of the bundled models are compared with; None: it knows none.
    """

    option: str
    name: str
    resize: str
    others: str
    cure: str
    load: Callable[[], Read]
    real: Callable[[], Reading] | None = None

    def loaded(self) -> Read:
        """The function.

        Raises:
            DeepCacheError: its package or its weights are not here; the message says what to put where.
        """
        found, absent = available({self.cure: self.load})
        if absent:
            raise DeepCacheError(f"the extractor {self.option!r} cannot be had: {absent[self.cure]}")
        function: Read = found[self.cure]
        return function


# Of the 17×17 places of a layer, as many channels as ImageNet's evaluator takes.
_SPATIAL_CHANNELS = 7


def _inception() -> Read:
    import torch
    from torch_fidelity.utils import create_feature_extractor

    on_gpu = torch.cuda.is_available()
    layers = ["2048", "logits_unbiased"]
    network = create_feature_extractor("inception-v3-compat", layers, cuda=on_gpu, verbose=False)
    maps: list[torch.Tensor] = []
    # TensorFlow's mixed_6/conv, before it is normalised.
    network.Mixed_6d.branch1x1.conv.register_forward_hook(lambda module, args, output: maps.append(output))

    @torch.no_grad()
    def read(images: np.ndarray) -> Reading:
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        pooled, logits = network(pixels.cuda() if on_gpu else pixels)
        spatial = maps.pop()[:, :_SPATIAL_CHANNELS].flatten(1)
        found = (each.float().cpu().numpy() for each in (pooled, spatial, logits.softmax(dim=1)))
        return Reading(**dict(zip(("pooled", "spatial", "probabilities"), found, strict=True)))

    return read


def _digits() -> Read:
    from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight

    reader = DigitReader()

    def read(images: np.ndarray) -> Reading:
        if images.shape[1] % 8 or images.shape[2] % 8:
            raise DeepCacheError(
                f"images of {images.shape[1]}×{images.shape[2]} pixels have no 8×8 areas; give such as the digits are"
            )
        return _reading(reader, to_eight(images.transpose(0, 3, 1, 2) / 255))

    return read


def _real_digits() -> Reading:
    from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, real_digits

    _, test = real_digits()
    return _reading(DigitReader(), test.images)


def _reading(reader: "DigitReader", eight: np.ndarray) -> Reading:
    from deepcache_trt.benchmarks.fidelity.digit_reader import duels_won

    margins = reader.margins(eight)
    return Reading(pooled=margins, spatial=eight.reshape(len(eight), -1), probabilities=duels_won(margins))


DIGITS = "digits"

_EXTRACTORS = {
    each.option: each
    for each in (
        Extractor(
            option="inception",
            name="torch-fidelity inception-v3-compat, 2048",
            resize="299×299, bilinear as TensorFlow 1",
            others="7 channels of 17×17 of the layer mixed_6/conv; classes of logits without their biases",
            cure="fid, kid, inception_score",
            load=_inception,
        ),
        Extractor(
            option=DIGITS,
            name="margins of the digit reader, 45",
            resize="8×8, means of areas",
            others="the 64 areas; of each digit the share of all duels that it wins",
            cure="accuracy, frechet",
            load=_digits,
            real=_real_digits,
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
