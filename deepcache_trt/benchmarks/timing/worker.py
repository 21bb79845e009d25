"""One of the systems that `turns` compares, in this process: it is loaded, then draws whenever it is told to.

    python -P -m deepcache_trt.benchmarks.timing.worker MODULE:FUNCTION ARGUMENTS

Orders come as lines on the standard input: "load" calls the function with the arguments (JSON), and what it returns
draws one image and gives its figures when "draw" calls it. Each is answered by one line of JSON, with the seconds that
it took and the figures, or with the error. The process ends with its input.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory

# The orders.
LOAD, DRAW = "load", "draw"

Draw = Callable[[], Mapping[str, Any]]


def private_pipes() -> tuple[TextIO, TextIO]:
    """The pipes of orders and of answers, where neither libraries nor their processes can read or write them."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return orders, answers


def main() -> None:
    """Obey orders until there are no more."""
    with suppress(OSError):  # when memory runs out, this process is to be killed and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    keep_freed_memory()
    factory, arguments = sys.argv[1:]
    orders, answers = private_pipes()
    draw: Draw | None = None
    for order in iter(orders.readline, ""):
        started = time.perf_counter()
        try:
            figures: Mapping[str, Any] = {}
            if order.strip() == LOAD:
                draw = _load(factory, json.loads(arguments))
            else:
                assert draw is not None, order
                figures = draw()
            answer = {"seconds": time.perf_counter() - started, "figures": figures}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            break


def _load(factory: str, arguments: Mapping[str, Any]) -> Draw:
    module, _, name = factory.partition(":")
    draw: Draw = getattr(import_module(module), name)(**arguments)
    return draw


if __name__ == "__main__":
    main()
