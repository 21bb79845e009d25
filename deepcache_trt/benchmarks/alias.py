"""Some commands of `deepcache-trt` by another name, `python -m deepcache_trt.benchmarks.…`, with the same options."""

import runpy
import sys
from collections.abc import Sequence


def run_command(*command: str) -> None:
    """Be `deepcache-trt COMMAND` with this process's arguments, and end as it does.

    The command line stands above the benchmarks and knows the options, so it is run, and not imported.
    """
    sys.argv = ["deepcache-trt", *command, *repeated(sys.argv[1:])]
    runpy.run_module("deepcache_trt.cli", run_name="__main__")


def repeated(arguments: Sequence[str]) -> list[str]:
    """`--frames 14 25` as `--frames 14 --frames 25`, which is how the command takes several values of an option."""
    option, values, spread = "", 0, list[str]()
    for argument in arguments:
        if argument.startswith("--"):
            option, values = argument, 0
        elif option:
            values += 1
            if values > 1:
                spread.append(option)
        spread.append(argument)
    return spread
