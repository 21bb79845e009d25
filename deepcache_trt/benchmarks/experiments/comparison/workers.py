"""Drawing on several GPUs or machines: batches are blocks of Ray Data, and each worker is an actor with a pipeline.

Ray starts an actor that died again and gives its batch to one that lives. The process that asked writes all pictures,
so that workers need no disk in common. A CPU's pictures depend on the number of threads in their last bits: workers
have as many as that process, and a folder is the same whoever drew it.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.experiments.comparison.drawing import Batch, Drawer, Drawing, Draws, Task
from deepcache_trt.benchmarks.experiments.experiment import Workers
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.progress import quiet_libraries

_PATIENCE = 5  # seconds


class _Actor:
    """One worker."""

    def __init__(self, draws: Draws, threads: int) -> None:
        torch.set_num_threads(threads)
        quiet_libraries()
        self._drawer = Drawer(draws)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Draw one task, which is alone in its batch of rows."""
        return {"number": [int(rows["number"][0])], "batch": [self._drawer(rows["task"][0])]}


def spread(draws: Draws, workers: Workers) -> Drawing:
    """Over processes of Ray.

    Args:
        draws: what each of them loads anew.
        workers: which.

    Raises:
        DeepCacheError: Ray is not installed, or there is no such cluster.
    """

    def drawing(tasks: Sequence[Task]) -> Iterator[tuple[Task, Batch]]:
        ray = _joined(workers)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = workers.count or max(gpus, 1)
        rows = [{"number": number, "task": task} for number, task in enumerate(tasks)]
        drawn = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(draws, torch.get_num_threads()),
            batch_size=1,
            concurrency=count,
            num_gpus=1 if gpus else 0,
            num_cpus=1,
        )
        for row in drawn.iter_rows():
            yield tasks[row["number"]], row["batch"]

    return drawing


def _joined(workers: Workers) -> Any:
    """Ray, in a cluster."""
    # It logs to the terminal that actors which can be started again keep their arguments.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DeepCacheError(f"--ray needs Ray ({first_line(error)}); pip install 'deepcache-trt[ray]'") from error
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if workers.address == "auto":
            try:
                ray.init("auto", **quiet)
            except ConnectionError:  # this machine is of none
                ray.init(include_dashboard=False, **quiet)
        else:
            _check_address(workers.address)
            ray.init(workers.address, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _check_address(address: str) -> None:
    """Raise DeepCacheError where nobody listens: Ray would wait for hours."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        raise DeepCacheError(
            f"there is no cluster of Ray at {address} ({first_line(error)}); give its host:port, or --ray auto"
        ) from error
