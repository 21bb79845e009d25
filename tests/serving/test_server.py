"""The server as it is started: on Ray, with the digits behind it, and replicas that are killed."""

import base64
import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

openai = pytest.importorskip("openai")
requests = pytest.importorskip("requests")
pytest.importorskip("ray.serve")

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
REPLICA = "ServeReplica:deepcache-trt:replica"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(*words: object) -> Iterator[str]:
    """The address of a server, once it has told it."""
    command = [sys.executable, "-m", "deepcache_trt.cli", "serve", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "it did not start"
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def url(store_root: Path) -> Iterator[str]:
    with started("--model", "digits", "--store", store_root, "--port", free_port()) as address:
        yield address


def ask(url: str, **body: Any) -> Any:
    return requests.post(f"{url}/v1/generate", json={"prompt": "a handwritten six", **body}, timeout=120)


def picture(answer: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]["b64_json"])))).astype(int)


def test_the_first_request_is_answered_within_a_minute(url: str, store_root: Path) -> None:
    """Of a second start: the engines are built."""
    begun = time.monotonic()
    with started("--model", "digits", "--store", store_root, "--port", free_port()) as address:
        assert ask(address).status_code == 200
        assert time.monotonic() - begun < 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_examples_of_the_client_run(code: str, url: str) -> None:
    found: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8000", url), found)
    assert len(found["found"].data) == 2


@pytest.mark.parametrize("code", blocks("bash"))
def test_examples_of_curl_run(code: str, url: str) -> None:
    text = subprocess.run(
        ["bash", "-c", code.replace("http://127.0.0.1:8000", url)], check=True, capture_output=True, text=True
    ).stdout
    assert "b64_json" in text
    assert ('"kind": "shallow"' in text) == ('"stream": true' in code)


@pytest.mark.parametrize("code", blocks("yaml"))
def test_rays_own_file_starts_the_same(code: str, tmp_path: Path, store_root: Path) -> None:
    port = free_port()
    path = tmp_path / "serve.yaml"
    path.write_text(code.replace("8000", str(port)).replace("args:", f"args:\n      store: {store_root}"))
    with started("--config", path) as address:
        assert address.endswith(f":{port}")
        assert ask(address, steps=3).json()["images"][0]["steps"] == {"full": 1, "cached": 2, "skipped": 0}


def replicas() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if REPLICA in " ".join(p.info["cmdline"] or ())]


def kill_replica() -> None:
    (replica,) = replicas()
    os.kill(replica.pid, signal.SIGKILL)


def test_a_killed_replica_loses_no_request(url: str) -> None:
    alone = {seed: picture(ask(url, seed=seed, steps=150)) for seed in range(6)}
    killer = threading.Timer(0.7, kill_replica)
    killer.start()
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda seed: ask(url, seed=seed, steps=150), range(6)))
    killer.join()
    for seed, answer in enumerate(answers):
        assert answer.status_code == 200, answer.text
        assert np.abs(picture(answer) - alone[seed]).max() <= 1


def test_sixteen_clients_get_their_own_pictures_though_a_replica_is_killed(
    url: str, record_property: Callable[[str, object], None]
) -> None:
    """Random sizes, seeds and plans for a minute, or for as many seconds as SOAK_SECONDS says."""
    seconds = float(os.environ.get("SOAK_SECONDS", "60"))
    sizes, intervals, steps = ("64x64", "48x64", "32x48"), (1, 3), (10, 20)
    kinds = [
        {"seed": seed, "size": size, "interval": interval, "steps": count}
        for seed, size, interval, count in itertools.product(range(4), sizes, intervals, steps)
    ]
    alone = [picture(ask(url, **kind)) for kind in kinds]
    begun = time.monotonic()
    wrong, drawn = list[Any](), list[float]()

    def client(number: int) -> None:
        dice = np.random.default_rng(number)
        while time.monotonic() < begun + seconds:
            chosen, asked = int(dice.integers(len(kinds))), time.monotonic()
            answer = ask(url, **kinds[chosen])
            drawn.append(time.monotonic() - asked)
            if answer.status_code != 200 or np.abs(picture(answer) - alone[chosen]).max() > 1:
                wrong.append((kinds[chosen], answer.status_code, answer.text[:200]))

    def memory_at(share: float) -> int:
        time.sleep(max(begun + share * seconds - time.monotonic(), 0))
        return sum(each.memory_info().rss for each in replicas())

    with ThreadPoolExecutor(16) as threads:
        running = [threads.submit(client, number) for number in range(16)]
        memory_at(0.2)
        kill_replica()
        # What replaces it opens its engines first.
        before, after = memory_at(0.6), memory_at(0.98)
        for each in running:
            each.result()
    growth = after / before - 1
    record_property("pictures served to 16 clients", len(drawn))
    record_property("of these wrong or lost", len(wrong))
    record_property("slowest answer, growth of the replicas' memory", f"{max(drawn):.1f} s, {growth:+.1%}")
    assert not wrong
    assert len(drawn) > seconds
    assert growth < 0.05
