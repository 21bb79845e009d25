"""A checksum of tensors where they lie, at the speed of memory: what was written to them, by whatever way, changes it.

torch counts writes to a tensor, but not those through `.data`, through NumPy or by another process; only reading all
of it tells.
"""

import ctypes
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from operator import attrgetter

import torch
import xxhash

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# On other devices than the CPU: tensors below so many bytes are copied to it, all of them at once; a larger one is
# summed up in so many columns, a prime, so that the elements of no two rows or columns of a weight fall into the same.
_COPIED = 1 << 16
_COLUMNS = 4093

# Bytes from which on another thread reads them: what is less is read before a thread would have begun.
_MANY = 1 << 26

_IS_ON_CPU = attrgetter("is_cpu")


class Digests:
    """`digests` of tensors, for whoever has something else to do first.

    On the CPU another thread reads them meanwhile. On a GPU they are read when they are asked for, after what was
    enqueued before.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        is_long = all(map(_IS_ON_CPU, tensors)) and sum(tensor.nbytes for tensor in tensors) >= _MANY
        self._read = _reader().submit(digests, tensors) if is_long else None

    def result(self) -> tuple[int, ...]:
        """Wait for them."""
        return digests(self._tensors) if self._read is None else self._read.result()

    def wait(self) -> None:
        """Wait until no other thread reads the tensors any more: they may be freed."""
        if self._read is not None:
            wait([self._read])


@functools.cache
def _reader() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="digests")


def digests(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """64 bits for each tensor, of any device; the same for the same bytes in the same layout on one kind of device.

    From each other device there are two copies to the CPU, however many the tensors are.
    """
    if all(map(_IS_ON_CPU, tensors)):
        return tuple(map(_of_memory, tensors))
    elsewhere: dict[torch.device, list[int]] = {}
    found = dict.fromkeys(range(len(tensors)), 0)
    for place, tensor in enumerate(tensors):
        if tensor.is_cpu:
            found[place] = _of_memory(tensor)
        else:
            elsewhere.setdefault(tensor.device, []).append(place)
    for places in elsewhere.values():
        large = [place for place in places if tensors[place].nbytes >= _COPIED]
        small = [place for place in places if tensors[place].nbytes < _COPIED]
        if large:
            sums = torch.stack([_column_sums(_words(tensors[place])) for place in large]).cpu()
            found |= zip(large, map(_of_memory, sums), strict=True)
        if small:
            pieces = [_words(tensors[place]).view(torch.uint8) for place in small]
            copied = torch.cat(pieces).cpu().split([len(piece) for piece in pieces])
            found |= zip(small, map(_of_memory, copied), strict=True)
    return tuple(found.values())


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
