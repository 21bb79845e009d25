"""Precisions below a pipeline's dtype: what the weights of some layers are stored in, and what these compute in."""

from dataclasses import dataclass

from deepcache_trt.errors import UnknownNameError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision beside a dtype, which is that of everything else.

    Attributes:
        name: what users call it; backends that have it not say so under this name, see `Backend.lacks`.
        storage: of the weights of quantized layers, as safetensors and ONNX call it in lower case.
        compute: of the products of these layers; what they give is in the pipeline's dtype again.
        tolerance: ‖engine − reference‖ / ‖reference‖ of one graph on two backends. Values that differ by a rounding
            error before they are quantized can be a whole step apart after it.
    """

    name: str
    storage: str
    compute: str
    tolerance: float


INT8 = Precision(name="int8", storage="int8", compute="int8", tolerance=0.15)

PRECISIONS = {precision.name: precision for precision in (INT8,)}


def precision_of(name: str | None) -> Precision | None:
    """The precision that is meant; None where none is named: everything is in the pipeline's dtype.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name is None:
        return None
    if name not in PRECISIONS:
        known = list(PRECISIONS)
        raise UnknownNameError(
            f"unknown precision {name!r}{did_you_mean(name, known)}; there is {', '.join(known)}, or leave it out: "
            f"everything is in the pipeline's dtype then"
        )
    return PRECISIONS[name]
