"""A checksum of tensors where they lie, at the speed of memory: what was written to them, by whatever way, changes it.

torch counts writes to a tensor, but not those through `.data`, through NumPy or by another process; only reading all
of it tells.
"""

import ctypes
from collections.abc import Sequence
from operator import attrgetter

import torch
import xxhash

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# On other devices than the CPU: tensors below so many bytes are copied to it; a larger one is summed up in so many
# columns, a prime, so that the elements of no two rows or columns of a weight fall into the same ones.
_COPIED = 1 << 16
_COLUMNS = 4093

_IS_ON_CPU = attrgetter("is_cpu")


def digests(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """64 bits for each tensor, of any device; the same for the same bytes in the same layout on one kind of device."""
    if all(map(_IS_ON_CPU, tensors)):
        return tuple(map(_of_memory, tensors))
    summed = [_column_sums(_words(tensor)) for tensor in tensors if _is_summed(tensor)]
    sums = iter(torch.stack(summed).cpu() if summed else ())
    return tuple(_of_memory(next(sums) if _is_summed(tensor) else tensor.cpu()) for tensor in tensors)


def _is_summed(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu" and tensor.nbytes >= _COPIED


def _of_memory(tensor: torch.Tensor) -> int:
    """XXH3 of a tensor on the CPU: of its memory itself, which is ten times as quick as by way of NumPy."""
    if not (tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))):
        tensor = tensor.detach().contiguous()
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return xxhash.xxh3_64_intdigest(memory)


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's elements, [n] integers of their size."""
    return tensor.detach().reshape(-1).view(_INTEGERS[tensor.itemsize])


def _column_sums(words: torch.Tensor) -> torch.Tensor:
    """[_COLUMNS] int64: the sums of every so-manieth element, which wrap around."""
    rows, rest = divmod(len(words), _COLUMNS)
    sums = words[: len(words) - rest].view(rows, _COLUMNS).sum(0, dtype=torch.int64)
    sums[:rest] += words[len(words) - rest :]
    return sums
