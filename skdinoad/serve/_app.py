"""The ASGI application, with limits on the size, time and number of uploads."""

import asyncio
import logging
from contextlib import asynccontextmanager
from itertools import count

import cv2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from skdinoad.pipeline import final_detector
from skdinoad.plotting import overlay_map
from skdinoad.serve._scoring import Upload, reason
from skdinoad.verdicts import DecisionRule

__all__ = ["build"]

#: Time limit for receiving an image, in seconds.
_PATIENCE = 60

#: Longest name of an image; longer names are truncated.
_NAME = 200

#: Content security policy of the page: no scripts, no external resources.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

#: Exceptions caused by the image (status 422); all others are server errors.
_REFUSED = (ValueError, TypeError)

_log = logging.getLogger("skdinoad.serve")


def build(model, worker, line, about, *, queue, max_bytes):
    """Return the application for a worker that scores uploads with a model."""

    @asynccontextmanager
    async def lifespan(app):
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.close)

    async def info(request):
        return JSONResponse(about)

    async def page(request):
        return HTMLResponse(line.page(), headers={"Content-Security-Policy": _POLICY})

    async def health(request):
        said = {"status": "ok" if worker.alive else "stopped", **line.known()}
        said |= {"inside": desk.inside, "waiting": worker.waiting}
        return JSONResponse(said, 200 if worker.alive else 503)

    desk = _Desk(model, worker, queue=queue, max_bytes=max_bytes)
    routes = [
        Route("/", page),
        Route("/info", info),
        Route("/health", health),
        Route("/score", desk.score, methods=["POST"]),
        Route("/map", desk.map, methods=["POST"]),
    ]
    handlers = {HTTPException: _said, ClientDisconnect: _nobody}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Desk:
    """Receive images and answer requests, with a limit on pending requests."""

    def __init__(self, model, worker, *, queue, max_bytes):
        self._rule, self._worker = DecisionRule.of(model), worker
        self._limits = final_detector(model).map_limits_
        self._queue, self._max_bytes, self.inside = queue, max_bytes, 0
        self._numbers = count(1)

    async def score(self, request):
        """Return the verdict on an image as JSON."""
        wants_map = _flag(request, "regions")
        return await self._served(request, wants_map, self._verdict)

    async def map(self, request):
        """Return a PNG of the heat map over the image."""
        return await self._served(request, True, self._picture)

    async def _served(self, request, wants_map, answered):
        if self.inside >= self._queue:
            raise HTTPException(
                429,
                "the queue is full: try again.",
                {"Retry-After": "1"},
            )
        self.inside += 1  # before the image is received, to limit memory
        try:
            content = await _content(request, self._max_bytes)
            upload = Upload(content, self._name(request), wants_map, request.url.path)
            return await run_in_threadpool(
                answered, await self._scored(request, upload)
            )
        finally:
            self.inside -= 1

    def _name(self, request):
        return request.query_params.get("name", f"#{next(self._numbers)}")[:_NAME]

    async def _scored(self, request, upload):
        future = self._worker.submit(upload)
        try:
            return await _unless_gone(asyncio.wrap_future(future), request)
        except _REFUSED as error:
            raise HTTPException(422, reason(error)) from error
        except ClientDisconnect:
            raise
        except Exception as error:
            _log.exception("An image could not be scored.")
            text = "the image could not be scored; see the server's log."
            raise HTTPException(500, text) from error
        finally:
            self._worker.drop(future)

    def _verdict(self, scored):
        result, rule = scored.result, self._rule
        said = {"name": scored.name, "verdict": result.verdict}
        said |= {"score": float(result.score), "threshold": rule.threshold}
        if rule.review_threshold is not None:
            said["review_threshold"] = rule.review_threshold
        said["p_value"] = result.p_value
        if result.regions is not None:
            said["regions"] = [region.as_dict() for region in result.regions]
        return JSONResponse(said)

    def _picture(self, scored):
        result = scored.result
        shown = overlay_map(scored.shown(), result.heat, limits=self._limits)
        done, code = cv2.imencode(".png", np.ascontiguousarray(shown[..., ::-1]))
        if not done:
            raise RuntimeError(f"OpenCV cannot encode an image of shape {shown.shape}.")
        score = repr(float(result.score))
        headers = {"X-Verdict": result.verdict, "X-Score": score}
        return Response(code.tobytes(), media_type="image/png", headers=headers)


async def _content(request, most):
    """Return the body of a request, within the limits of size and time."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        raise HTTPException(
            415, "expected the bytes of an image file as the body, not a form."
        )
    try:
        return await asyncio.wait_for(_body(request, most), _PATIENCE)
    except asyncio.TimeoutError as error:
        message = f"the image was not received within {_PATIENCE} s."
        raise HTTPException(408, message) from error


async def _body(request, most):
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_long(most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_long(most)
    return bytes(body)


def _too_long(most):
    return HTTPException(413, f"the image has more than {most} bytes.")


async def _unless_gone(future, request):
    """Wait for a future; stop waiting if the client disconnects."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not future.done():
        raise ClientDisconnect
    return future.result()


async def _gone(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _flag(request, name):
    """Return a boolean query parameter; the default is True."""
    value = request.query_params.get(name, "true")
    if value not in ("true", "false"):
        raise HTTPException(400, f"{name}={value!r}: expected true or false.")
    return value == "true"


async def _said(request, error):
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _nobody(request, error):
    return Response(status_code=499)  # "client closed request"; never received
