"""Starting a server on a cluster of Ray, and waiting for its end."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.serving.application import Settings, bound, gpus_here

_NAME = "deepcache-trt"


@contextmanager
def served(settings: Settings, *, host: str, port: int, address: str | None) -> Iterator[Callable[[], None]]:
    """Serve within the block; gives a function that waits for Ctrl-C or SIGTERM.

    Args:
        settings: see there.
        host: on which it listens.
        port: likewise.
        address: of a cluster, or "auto"; None: one is started here, and stopped at the end.

    Raises:
        DeepCacheError: somebody listens there already, there is no such cluster, or a replica cannot start.
    """
    _check_port(host, port)
    os.environ.setdefault("RAY_SERVE_ENABLE_TASK_EVENTS", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeepCacheError(f"cannot join a cluster of Ray at {address}: {first_line(error)}; start one") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        application = bound(settings, gpus=gpus_here())
        try:
            serve.run(application, name=_NAME, route_prefix="/")
        except RuntimeError as error:
            raise DeepCacheError(f"the server did not start: {_reason(error)}; mend that and try again") from error
        yield _wait
    finally:
        if address is not None:  # others may serve there too
            serve.delete(_NAME)
        stop: Any = ray.shutdown
        stop()


def _wait() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *args: ended.set())
    ended.wait()


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((host, port))
    except OSError as error:
        raise DeepCacheError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _reason(error: BaseException) -> str:
    """What a deployment says of itself, of which the last line is the error, or else what was raised."""
    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            lines = [line.strip() for line in deployment.message.splitlines() if "Error" in line]
            if lines:
                return lines[-1]
    return first_line(error)
