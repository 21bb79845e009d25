"""The interface over HTTP: OpenAI's images, everything that a pipeline takes with progress as events, and health."""

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from deepcache_trt import __version__
from deepcache_trt.errors import DeepCacheError, UnknownNameError, without_paths
from deepcache_trt.serving.answers import Answer, GoneError, Guarded, LimitedBody, answer_to, body_of, response
from deepcache_trt.serving.batches import Step
from deepcache_trt.serving.bodies import Defaults, GenerateBody, ImagesBody, as_base64, invalid
from deepcache_trt.serving.metrics import Metrics
from deepcache_trt.serving.wanted import Limits, Wanted

_KEPT = 256  # pictures that can be fetched by their address


# A picture: its steps, then a `Painted`.
Draw = Callable[[Wanted], AsyncIterator[Any]]


@dataclass(frozen=True, kw_only=True)
class Door:
    """How a server answers.

    Attributes:
        draw: a picture.
        check: raises DeepCacheError for what is not served.
        models: by name, the first one where a request names none.
        default: what requests leave out.
        limits: of requests.
        seconds: that a request may take.
        body: bytes of one, at most.
        key: that requests have to show; "": none.
    """

    draw: Draw
    check: Callable[[Wanted], None]
    models: Sequence[str]
    default: Defaults
    limits: Limits = field(default_factory=Limits)
    seconds: float = 300.0
    body: int = 16 * 2**20
    key: str = ""


def create_app(door: Door) -> FastAPI:
    """The application."""
    app = FastAPI(title="deepcache-trt", version=__version__)
    metrics, kept = Metrics(), OrderedDict[str, bytes]()

    app.add_middleware(LimitedBody, most=door.body)
    app.add_middleware(Guarded, metrics=metrics, key=door.key)

    @app.exception_handler(Answer)
    async def told(request: Request, error: Answer) -> Response:
        return response(error)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        return response(Answer(400, invalid(error.errors()[0]), "invalid_request"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return response(Answer(error.status_code, str(error.detail), "invalid_request"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return response(answer_to(error))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "models": list(door.models), "version": __version__}

    @app.get("/metrics")
    async def told_to_prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "deepcache-trt"} for name in door.models]
        return {"object": "list", "data": listed}

    @app.post("/v1/images/generations")
    async def images(body: ImagesBody, request: Request) -> dict[str, Any]:
        painted = await _all(door, metrics, _asked(door, body), request)
        if body.response_format == "url":
            data = [{"url": str(request.url_for("picture", name=_keep(kept, each.image)))} for each in painted]
        else:
            data = [{"b64_json": as_base64(each.image)} for each in painted]
        return {"created": int(time.time()), "data": data}

    @app.get("/v1/pictures/{name}", name="picture")
    async def picture(name: str) -> Response:
        if name not in kept:
            raise Answer(404, "there is no such picture any more; draw it again", "not_found")
        return Response(kept[name], media_type="image/png")

    @app.post("/v1/generate", response_model=None)
    async def generate(body: GenerateBody, request: Request) -> Response | dict[str, Any]:
        wanted = _asked(door, body)
        if body.stream:
            return StreamingResponse(_events(door, metrics, wanted), media_type="text/event-stream")
        painted = await _all(door, metrics, wanted, request)
        return {"images": [_told(each, one) for each, one in zip(painted, wanted, strict=True)]}

    return app


def _asked(door: Door, body: ImagesBody | GenerateBody) -> list[Wanted]:
    try:
        wanted = body.wanted(door.default, door.limits)
        for each in wanted:
            door.check(each)
    except UnknownNameError as error:
        raise Answer(404, without_paths(str(error)), "model_not_found") from error
    except DeepCacheError as error:
        raise Answer(400, without_paths(str(error)), "invalid_request") from error
    return wanted


async def _all(door: Door, metrics: Metrics, wanted: Sequence[Wanted], request: Request) -> list[Any]:
    """All pictures of a request, or none; where the client goes away, their places are given back."""
    drawing = asyncio.gather(*(_one(door, metrics, each) for each in wanted))
    gone = asyncio.create_task(_disconnected(request))
    try:
        waited: list[asyncio.Future[Any]] = [drawing, gone]
        await asyncio.wait(waited, timeout=door.seconds, return_when=asyncio.FIRST_COMPLETED)
        if drawing.done():
            return list(drawing.result())
        if gone.done():
            raise Answer(499, "the client is gone", "gone")
        raise Answer(504, f"it took longer than {door.seconds:g} s; ask for less, or later", "timeout")
    except Answer:
        raise
    except Exception as error:
        raise answer_to(error) from error
    finally:
        gone.cancel()
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def _one(door: Door, metrics: Metrics, wanted: Wanted) -> Any:
    async with aclosing(door.draw(wanted)) as found:  # type: ignore[type-var]
        async for each in found:
            if not isinstance(each, Step):
                metrics.painted(wanted.model, each.calls, batch=each.batch, opened=each.opened)
                return each
    raise GoneError("nothing was drawn; ask again")


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


async def _events(door: Door, metrics: Metrics, wanted: Sequence[Wanted]) -> AsyncIterator[str]:
    """Steps of all pictures as they are done, and pictures, as server-sent events."""
    queue = asyncio.Queue[tuple[str, Any]]()

    async def follow(number: int, one: Wanted) -> None:
        kinds = one.policy.plan(one.steps).variants
        async with aclosing(door.draw(one)) as found:  # type: ignore[type-var]
            async for each in found:
                if isinstance(each, Step):
                    at = each.done - 1
                    kind = {"kind": kinds[at]} if each.total == len(kinds) and 0 <= at < len(kinds) else {}
                    queue.put_nowait(("step", {"image": number, "done": each.done, "total": each.total, **kind}))
                else:
                    metrics.painted(one.model, each.calls, batch=each.batch, opened=each.opened)
                    queue.put_nowait(("image", {"image": number, **_told(each, one)}))

    async def all_of_them() -> None:
        try:
            async with asyncio.timeout(door.seconds):
                await asyncio.gather(*(follow(number, one) for number, one in enumerate(wanted)))
        except TimeoutError:
            answer = Answer(504, f"it took longer than {door.seconds:g} s; ask for less, or later", "timeout")
            queue.put_nowait(("error", body_of(answer)))
        except Exception as error:
            queue.put_nowait(("error", body_of(answer_to(error))))
        queue.put_nowait(("done", {}))

    async with _running(all_of_them()):
        while True:
            name, data = await queue.get()
            yield f"event: {name}\ndata: {json.dumps(data)}\n\n"
            if name == "done":
                return


@asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _told(painted: Any, wanted: Wanted) -> dict[str, Any]:
    figures = {"seconds": painted.seconds, "batch": painted.batch, "steps": dict(painted.calls)}
    return {"b64_json": as_base64(painted.image), "seed": wanted.seed, **figures}


def _keep(kept: OrderedDict[str, bytes], image: Any) -> str:
    import io

    held, name = io.BytesIO(), f"{secrets.token_urlsafe(16)}.png"
    image.save(held, "PNG")
    kept[name] = held.getvalue()
    while len(kept) > _KEPT:
        kept.popitem(last=False)
    return name
