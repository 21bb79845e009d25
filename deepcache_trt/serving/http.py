"""The interface over HTTP: OpenAI's images, everything that a pipeline takes with progress as events, and health."""

import asyncio
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from deepcache_trt import __version__
from deepcache_trt.errors import DeepCacheError, UnknownNameError, without_paths
from deepcache_trt.serving.batches import FullError, Step
from deepcache_trt.serving.bodies import Defaults, GenerateBody, ImagesBody, as_base64, invalid
from deepcache_trt.serving.metrics import Metrics
from deepcache_trt.serving.wanted import Limits, Wanted

_log = logging.getLogger(__name__)

_SECOND = 1  # after which a client that was turned away may ask again
_KEPT = 256  # pictures that can be fetched by their address


# A picture: its steps, then a `Painted`.
Draw = Callable[[Wanted], AsyncIterator[Any]]


class GoneError(DeepCacheError):
    """Whoever drew it is gone, and nobody else could."""


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


class _Answer(Exception):  # noqa: N818 - it is no error of ours
    """Ends a request."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


_STRANGER = _Answer(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "invalid_api_key")


def create_app(door: Door) -> FastAPI:
    """The application."""
    app = FastAPI(title="deepcache-trt", version=__version__)
    metrics, kept = Metrics(), OrderedDict[str, bytes]()

    app.add_middleware(_LimitedBody, most=door.body)
    app.add_middleware(_Guarded, metrics=metrics, key=door.key)

    @app.exception_handler(_Answer)
    async def told(request: Request, error: _Answer) -> Response:
        return _error(error)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        return _error(_Answer(400, invalid(error.errors()[0]), "invalid_request"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _error(_Answer(error.status_code, str(error.detail), "invalid_request"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _error(_answer_to(error))

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
            raise _Answer(404, "there is no such picture any more; draw it again", "not_found")
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
        raise _Answer(404, without_paths(str(error)), "model_not_found") from error
    except DeepCacheError as error:
        raise _Answer(400, without_paths(str(error)), "invalid_request") from error
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
            raise _Answer(499, "the client is gone", "gone")
        raise _Answer(504, f"it took longer than {door.seconds:g} s; ask for less, or later", "timeout")
    except _Answer:
        raise
    except Exception as error:
        raise _answer_to(error) from error
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
            answer = _Answer(504, f"it took longer than {door.seconds:g} s; ask for less, or later", "timeout")
            queue.put_nowait(("error", _body(answer)))
        except Exception as error:
            queue.put_nowait(("error", _body(_answer_to(error))))
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


def _answer_to(error: BaseException) -> _Answer:
    """What a client is told of an error; nothing of the server's folders."""
    if isinstance(error, _Answer):
        return error
    if isinstance(error, FullError):
        return _Answer(429, str(error), "rate_limit_exceeded")
    if isinstance(error, GoneError):
        return _Answer(503, str(error), "unavailable")
    if isinstance(error, DeepCacheError):
        return _Answer(400, without_paths(str(error)), "invalid_request")
    name = secrets.token_hex(4)
    _log.error("error %s", name, exc_info=error)
    return _Answer(500, f"something is wrong on the server; its log says what under {name}", "internal_error")


def _error(answer: _Answer) -> JSONResponse:
    headers = {"Retry-After": str(_SECOND)} if answer.status in (429, 503) else {}
    return JSONResponse(_body(answer), status_code=answer.status, headers=headers)


def _body(answer: _Answer) -> dict[str, Any]:
    """In OpenAI's form."""
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(answer), "type": kind, "param": None, "code": answer.code}}


class _Guarded:
    """Counts requests, and turns those away that do not show the key."""

    def __init__(self, app: Any, metrics: Metrics, key: str) -> None:
        self._app, self._metrics, self._key = app, metrics, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def counted(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            with self._metrics.waiting.track_inprogress():
                await (self._app if self._is_known(scope) else _error(_STRANGER))(scope, receive, counted)
        finally:
            self._metrics.answered(status, time.perf_counter() - started)

    def _is_known(self, scope: Any) -> bool:
        shown = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        return not self._key or scope["path"] == "/health" or secrets.compare_digest(shown, self._key.encode())


class _LimitedBody:
    """Refuses bodies that are larger than they may be, without reading them."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0
        answer = _Answer(413, f"the body has more than {self._most:,} bytes; send less", "too_large")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await _error(answer)(scope, receive, send)
            return

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise answer
            return message

        await self._app(scope, counted, send)
