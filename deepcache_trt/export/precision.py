"""Precisions below a pipeline's dtype: what the weights of some layers are stored in, and what these compute in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepcache_trt.errors import BackendError, UnknownNameError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision beside a dtype, which is that of everything else.

    Attributes:
        name: what users call it; backends that have it not say so under this name, see `Backend.lacks`.
        storage: of the weights of quantized layers, as torch calls it; these layers multiply such numbers, and what
            they give is in the pipeline's dtype again.
        largest: the largest magnitude of what is stored that is used.
        is_whole: whether its steps are all of one size; else they grow with the numbers.
        least_gpu: the compute capability from which NVIDIA's GPUs multiply it.
        tolerance: ‖engine − reference‖ / ‖reference‖ of one graph on two backends. Values that differ by a rounding
            error before they are quantized can be a whole step apart after it.
    """

    name: str
    storage: str
    largest: int
    is_whole: bool
    least_gpu: int
    tolerance: float

    def check_gpu(self, capability: str) -> None:
        """Raise BackendError where a GPU of a compute capability, as "sm86", does not multiply it."""
        number = capability.rpartition("sm")[2]
        if number.isdigit() and int(number) < self.least_gpu:
            raise BackendError(
                f"a GPU of sm{number} does not multiply {self.name}, which GPUs do from sm{self.least_gpu} on; use "
                f"{' or '.join(name for name, each in PRECISIONS.items() if each.least_gpu <= int(number)) or 'no'} "
                "precision there"
            )

    def check_cpu(self) -> None:
        """Raise BackendError where this CPU adds products of 8 bits in 16, which overflow: x86 without VNNI."""
        import torch

        told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch tell nothing
        if told.get("architecture") == "x86_64" and not (told.get("avx512_vnni") or told.get("avx_vnni")):
            raise BackendError(
                f"this CPU ({told.get('cpu_name', 'x86')}) has no VNNI, and its sums of {self.name} products overflow; "
                "leave the precision out, or draw on a CPU or GPU that has it"
            )


# -128 is left out, so that the range is symmetric.
INT8 = Precision(name="int8", storage="int8", largest=127, is_whole=True, least_gpu=61, tolerance=0.15)
FP8 = Precision(name="fp8", storage="float8_e4m3fn", largest=448, is_whole=False, least_gpu=89, tolerance=0.25)

PRECISIONS = {precision.name: precision for precision in (INT8, FP8)}


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
