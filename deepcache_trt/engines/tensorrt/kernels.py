"""The kernels that TensorRT-RTX compiles on the GPU at first runs, kept in a file for the next process."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from deepcache_trt.engines.caches import is_usable, keep
from deepcache_trt.engines.tensorrt import versions

_log = logging.getLogger(__name__)


class Kernels:
    """The runtime cache of a runtime config, and the file that it is kept in."""

    def __init__(self, trt: Any, config: Any, path: Path) -> None:
        """Fill the cache from the file, which may be missing or from another machine, before contexts are made."""
        self._trt, self._path = trt, path
        self._kept = ""  # the digest of what the file holds
        self._is_told = False
        self._cache = config.create_runtime_cache()
        if self._cache is None:
            self._tell("it makes no runtime cache")
            return
        blob = self._read()
        if blob and self._cache.deserialize(blob):
            self._kept = _digest(blob)
        elif blob:
            _log.info("%s is from another GPU, driver or version; TensorRT-RTX compiles anew", path)
        if not config.set_runtime_cache(self._cache):
            self._tell("it does not take its own runtime cache")
            self._cache = None

    def save(self) -> None:
        """Write the file, as a whole or not at all, if there is something that it does not hold.

        A failure is a warning, once: the engine did its work, and the next process compiles again.
        """
        if self._cache is None:
            return
        with versions.errors_of(self._trt) as errors:
            serialized = self._cache.serialize()
        if serialized is None:
            self._tell(versions.reason(errors))
            return
        digest = _digest(serialized)
        if digest == self._kept:
            return
        try:
            keep(self._path, serialized)
        except OSError as failure:
            self._tell(str(failure.strerror))
        else:
            self._kept = digest

    def close(self) -> None:
        """Let go of the cache."""
        self._cache = None

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes() if is_usable(self._path) else b""
        except OSError as failure:
            _log.warning("%s cannot be read (%s); TensorRT-RTX compiles anew", self._path, failure.strerror)
            return b""

    def _tell(self, why: str) -> None:
        if not self._is_told:
            _log.warning("TensorRT-RTX's compiled kernels were not saved to %s: %s", self._path, why)
        self._is_told = True


def _digest(memory: Any) -> str:
    return hashlib.blake2b(memory).hexdigest()
