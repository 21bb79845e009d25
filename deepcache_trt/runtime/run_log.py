"""When engines ran, and for how long."""

import time
from collections import deque

from deepcache_trt.engines.engine import Engine

# More than any generation has calls.
_RUNS_KEPT = 4096


class RunLog:
    """The runs of a session's engines; on a GPU the time is that of enqueueing, and recorded steps are not in it.

    Attributes:
        seconds: of all runs together.
        count: of all runs.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.count = 0
        self._last: deque[tuple[str, float]] = deque(maxlen=_RUNS_KEPT)

    def run(self, variant: str, engine: Engine) -> None:
        """Run an engine and note how long it took."""
        started = time.perf_counter()
        engine.run()
        took = time.perf_counter() - started
        self.seconds += took
        self.count += 1
        self._last.append((variant, took))

    def since(self, count: int) -> dict[str, tuple[float, ...]]:
        """The seconds of each run after the first `count`, by variant, as far as they are kept."""
        runs = [*self._last][max(0, len(self._last) - (self.count - count)) :]
        return {name: tuple(took for variant, took in runs if variant == name) for name, _ in runs}
