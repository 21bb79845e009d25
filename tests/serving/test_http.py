"""The interface over HTTP, by the clients that people use: the server runs, with the digits behind it."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")
requests = pytest.importorskip("requests")
uvicorn = pytest.importorskip("uvicorn")

from deepcache_trt.pipelines.engine_options import EngineOptions  # noqa: E402 - after what may not be there
from deepcache_trt.runtime.policies import DeepCache  # noqa: E402
from deepcache_trt.serving.batches import Batches  # noqa: E402
from deepcache_trt.serving.bodies import Defaults  # noqa: E402
from deepcache_trt.serving.http import Door, create_app  # noqa: E402
from deepcache_trt.serving.painter import Painter, Served, check_served  # noqa: E402
from deepcache_trt.serving.wanted import Limits, Wanted  # noqa: E402

KEY = "a key"


@pytest.fixture(scope="module")
def painter(store_root: Path) -> Painter:
    options = EngineOptions(backend="onnxruntime", store=store_root)
    painter = Painter(Served(models={"digits": "digits"}, adapters={}, options=options))
    painter.warm("digits", DeepCache(cache_interval=2), 1)  # nobody waits for what is built
    return painter


@pytest.fixture(scope="module")
def url(painter: Painter) -> Iterator[str]:
    """Of a server on a free port of this machine."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await made(scope, receive, send)

    batches: Batches[Wanted] = Batches(painter.paint, most=4, waiting=6)
    made = create_app(
        Door(
            draw=batches.follow,
            check=lambda wanted: check_served(wanted, ["digits"], []),
            models=("digits",),
            default=Defaults(model="digits", policy=DeepCache(cache_interval=2), steps=4),
            limits=Limits(images=4),
            seconds=20,
            body=100_000,
            key=KEY,
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def post(url: str, **body: Any) -> Any:
    return requests.post(f"{url}/v1/generate", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def expected(painter: Painter, **given: Any) -> np.ndarray:
    wanted = {"model": "digits", "prompt": "a handwritten six", "seed": 0, "steps": 4}
    wanted |= {"policy": DeepCache(cache_interval=2)}
    return np.asarray(painter.paint([Wanted(**{**wanted, **given})])[0].image)


def large_png(width: int, height: int) -> str:
    """The beginning of a picture that says so of itself."""
    held = io.BytesIO()
    Image.new("L", (1, 1)).save(held, "PNG")
    data = bytearray(held.getvalue())
    data[16:24] = width.to_bytes(4) + height.to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return base64.b64encode(data).decode()


def near(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


def test_the_client_of_openai_gets_pictures(client: Any, painter: Painter) -> None:
    found = client.images.generate(prompt="a handwritten six", n=2, size="64x64", response_format="b64_json")
    assert len(found.data) == 2
    for seed, each in enumerate(found.data):
        assert near(picture(each.b64_json), expected(painter, seed=seed, height=64, width=64))


def test_it_gets_addresses_of_pictures_and_lists_models(client: Any, url: str, painter: Painter) -> None:
    found = client.images.generate(
        prompt="a handwritten six", model="digits", response_format="url", extra_body={"seed": 5, "steps": 3}
    )
    answer = requests.get(found.data[0].url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    assert answer.headers["content-type"] == "image/png"
    assert near(np.asarray(Image.open(io.BytesIO(answer.content))), expected(painter, seed=5, steps=3))
    assert [model.id for model in client.models.list()] == ["digits"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": "x", "size": "13x64"}, "BadRequestError", "width 13 is no multiple of 8 in 8…2048; choose one"),
        ({"prompt": "x", "size": "large"}, "BadRequestError", "size 'large' is none; write width x height, as 512x512"),
        ({"prompt": "x", "n": 5}, "BadRequestError", "n 5 is outside 1…4; ask several times for more"),
        ({"prompt": "x", "model": "dall-e-3"}, "NotFoundError", "unknown model 'dall-e-3'; there are digits"),
        ({"prompt": "x", "style": "vivid"}, "BadRequestError", "style: extra inputs are not permitted"),
        ({"prompt": "x" * 200_000}, "APIStatusError", "the body has more than 100,000 bytes; send less"),
        ({"prompt": "x" * 5_000}, "BadRequestError", "a prompt of 5,000 characters is longer than 4,096; shorten it"),
    ],
)
def test_it_is_told_what_is_wrong(client: Any, given: dict[str, Any], error: str, message: str) -> None:
    with pytest.raises(getattr(openai, error)) as raised:
        client.images.generate(**given)
    assert message in raised.value.message


def test_a_wrong_key_is_turned_away(url: str) -> None:
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        openai.OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0).images.generate(prompt="x")
    assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
    assert requests.get(f"{url}/health", timeout=10).json()["models"] == ["digits"]


def test_everything_that_a_pipeline_takes(url: str, painter: Painter) -> None:
    start = Image.fromarray(expected(painter))
    held = io.BytesIO()
    start.save(held, "PNG")
    body = {"negative_prompt": "a handwritten one", "seed": 7, "steps": 6, "guidance": 2.5, "scheduler": "unipc"}
    policy = {"policy": "deepcache", "cache_interval": 3, "cache_branch_id": 1}
    image = {"image": base64.b64encode(held.getvalue()).decode(), "strength": 0.6}
    answer = post(url, prompt="a handwritten eight", policy=policy, **body, **image).json()
    (found,) = answer["images"]
    given: dict[str, Any] = {"prompt": "a handwritten eight", "image": start, "strength": 0.6, **body}
    assert near(
        picture(found["b64_json"]), expected(painter, policy=DeepCache(cache_interval=3, cache_branch_id=1), **given)
    )
    assert (found["seed"], found["steps"]["full"], found["steps"]["cached"]) == (7, 1, 2), "six steps, of which 0.6"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"policy": {"policy": "deepcache", "cache_intervall": 3}}, "cache_intervall"),
        (
            {"policy": {"policy": "uncached"}, "interval": 3},
            "policy says how to cache already; leave out cache_interval",
        ),
        ({"interval": 0}, "cache_interval"),
        ({"branch": 99}, "99 is outside 0…11"),
        ({"guidance": 1e400}, "guidance"),
        ({"scheduler": "unipk"}, "unknown scheduler 'unipk'"),
        ({"image": "no picture"}, "image is no base64 of a PNG or JPEG; encode one"),
        ({"image": large_png(3_000, 8)}, "an image of 3000×8 pixels is larger than 2048; make it smaller"),
        ({"image": large_png(30_000, 30_000)}, "image is no base64 of a PNG or JPEG; encode one"),
        ({"adapters": {"ink": 1.0}}, "unknown adapter 'ink'; there are none"),
        ({"steps": 10**9}, "steps 1000000000 is outside 1…200"),
    ],
)
def test_bad_requests_are_told_and_no_path_of_the_server_is(url: str, body: dict[str, Any], message: str) -> None:
    text = json.dumps({"prompt": "x", **body}).replace("Infinity", "1e400")
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = requests.post(f"{url}/v1/generate", data=text, headers=headers, timeout=60)
    assert answer.status_code in (400, 404), answer.text
    assert message in answer.json()["error"]["message"]
    assert str(Path.home()) not in answer.text
    assert "/site-packages" not in answer.text


def test_progress_comes_as_events(url: str, painter: Painter) -> None:
    answer = post(url, prompt="a handwritten six", stream=True, interval=2, steps=5, n=2)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [each.split("\n") for each in answer.text.strip().split("\n\n")]
    found = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    for number in (0, 1):
        steps = [data for name, data in found if name == "step" and data["image"] == number]
        assert [step["done"] for step in steps] == [1, 2, 3, 4, 5]
        assert [step["kind"] for step in steps] == ["full", "shallow", "full", "shallow", "full"]
        (image,) = [data for name, data in found if name == "image" and data["image"] == number]
        assert near(picture(image["b64_json"]), expected(painter, steps=5, seed=number))
    assert found[-1] == ("done", {})


def test_requests_at_the_same_time_are_drawn_together_and_too_many_are_turned_away(url: str, painter: Painter) -> None:
    def ask(seed: int) -> Any:
        return post(url, prompt="a handwritten six", seed=seed, steps=30)

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(ask, range(24)))
    drawn = {seed: answer for seed, answer in enumerate(answers) if answer.status_code == 200}
    turned_away = [answer for answer in answers if answer.status_code == 429]
    assert len(drawn) + len(turned_away) == 24
    assert turned_away
    assert all(answer.headers["retry-after"] == "1" for answer in turned_away)
    assert max(answer.json()["images"][0]["batch"] for answer in drawn.values()) > 1
    for seed, answer in drawn.items():
        assert near(picture(answer.json()["images"][0]["b64_json"]), expected(painter, seed=seed, steps=30))


def test_a_client_that_goes_away_frees_its_place(url: str) -> None:
    headers, body = {"Authorization": f"Bearer {KEY}"}, {"prompt": "x", "steps": 200, "interval": 1}
    for _ in range(12):  # twice as many as may wait
        with pytest.raises(requests.exceptions.Timeout):
            requests.post(f"{url}/v1/generate", json=body, headers=headers, timeout=0.2)
    assert post(url, prompt="a handwritten six").status_code == 200


def test_prometheus_is_told_what_was_drawn(url: str) -> None:
    text = requests.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, timeout=10).text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['deepcache_images_total{model="digits"}']) > 0
    assert float(figures['deepcache_steps_total{kind="cached"}']) > 0
    assert float(figures['deepcache_requests_total{status="400"}']) > 0
    assert "deepcache_request_seconds_bucket" in text


def test_the_interface_describes_itself(url: str) -> None:
    found = requests.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"}, timeout=10).json()
    assert {"/v1/images/generations", "/v1/generate", "/health", "/metrics"} <= set(found["paths"])
