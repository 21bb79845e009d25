"""Comparing what one process does: each action in turn, so that a slow moment of the machine falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil


def in_turn(actions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median of the seconds of each action over `rounds`, after one that does not count."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if turn:
                took[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def own_bytes() -> int:
    """The memory that this process holds and shares with no other."""
    size: int = psutil.Process().memory_full_info().uss
    return size
