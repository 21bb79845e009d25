"""The progress bars of pipelines, watched as they move."""

from collections.abc import Callable
from typing import Any

import pytest
from tqdm import tqdm


def watch_bars(patch: pytest.MonkeyPatch, moves: Callable[[int], None]) -> list[Any]:
    """The bars that diffusers shows from now on, in their order.

    Args:
        patch: which ends the watch.
        moves: is told by how many steps a bar is about to move; what it raises stops the bar.
    """
    bars: list[Any] = []

    def watched(*args: Any, **options: Any) -> Any:
        bar = tqdm(*args, **options)
        update = bar.update

        def move(n: float | None = 1) -> Any:
            moves(int(n or 0))
            return update(n)

        bar.update = move
        bars.append(bar)
        return bar

    patch.setattr("diffusers.pipelines.pipeline_utils.tqdm", watched)
    return bars
