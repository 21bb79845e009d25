"""Sizes and times as people type them."""

import re
from collections.abc import Mapping

from deepcache_trt.errors import DeepCacheError

_BYTES = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def bytes_in(text: str) -> int:
    """`50GB` in bytes; raises DeepCacheError for what is no size."""
    return int(_of(text, _BYTES, "size", "50GB"))


def seconds_in(text: str) -> float:
    """`30d` in seconds; raises DeepCacheError for what is no time."""
    return _of(text, _SECONDS, "time", "30d")


def _of(text: str, units: Mapping[str, float], name: str, example: str) -> float:
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in units:
        known = ", ".join(filter(None, units))
        raise DeepCacheError(f"{text!r} is no {name}; write a number and one of {known}, as {example}")
    return float(found[1]) * units[found[2].lower()]
