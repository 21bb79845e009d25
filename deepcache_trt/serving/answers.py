"""How requests are turned away: in OpenAI's form, and without a path of the server."""

import logging
import secrets
import time
from typing import Any

from fastapi.responses import JSONResponse

from deepcache_trt.errors import DeepCacheError, without_paths
from deepcache_trt.serving.batches import FullError
from deepcache_trt.serving.metrics import Metrics

_log = logging.getLogger(__name__)

_SECOND = 1  # after which a client that was turned away may ask again


class GoneError(DeepCacheError):
    """Whoever drew it is gone, and nobody else could."""


class Answer(Exception):  # noqa: N818 - it is no error of ours
    """Ends a request."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


_STRANGER = Answer(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "invalid_api_key")


def answer_to(error: BaseException) -> Answer:
    """What a client is told of an error; nothing of the server's folders."""
    if isinstance(error, Answer):
        return error
    if isinstance(error, FullError):
        return Answer(429, str(error), "rate_limit_exceeded")
    if isinstance(error, GoneError):
        return Answer(503, str(error), "unavailable")
    if isinstance(error, DeepCacheError):
        return Answer(400, without_paths(str(error)), "invalid_request")
    name = secrets.token_hex(4)
    _log.error("error %s", name, exc_info=error)
    return Answer(500, f"something is wrong on the server; its log says what under {name}", "internal_error")


def response(answer: Answer) -> JSONResponse:
    """To a client."""
    headers = {"Retry-After": str(_SECOND)} if answer.status in (429, 503) else {}
    return JSONResponse(body_of(answer), status_code=answer.status, headers=headers)


def body_of(answer: Answer) -> dict[str, Any]:
    """In OpenAI's form."""
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(answer), "type": kind, "param": None, "code": answer.code}}


class Guarded:
    """Counts requests, and turns those away that do not show the key."""

    def __init__(self, app: Any, metrics: Metrics, key: str) -> None:
        self._app, self._metrics, self._key = app, metrics, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
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
                await (self._app if self._is_known(scope) else response(_STRANGER))(scope, receive, counted)
        finally:
            self._metrics.answered(status, time.perf_counter() - started)

    def _is_known(self, scope: Any) -> bool:
        shown = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        return not self._key or scope["path"] == "/health" or secrets.compare_digest(shown, self._key.encode())


class LimitedBody:
    """Refuses bodies that are larger than they may be, without reading them."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, as far as it is no larger than it may be."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0
        answer = Answer(413, f"the body has more than {self._most:,} bytes; send less", "too_large")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await response(answer)(scope, receive, send)
            return

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise answer
            return message

        await self._app(scope, counted, send)
