"""The HTTP interface: predict, model, health, metrics."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from sparsify._version import __version__
from sparsify.serving.batching import Batcher, ClosedError, FullError
from sparsify.serving.images import InputError
from sparsify.serving.limits import Limits
from sparsify.serving.metrics import Metrics
from sparsify.serving.model import Served


class Refused(Exception):  # noqa: N818, an answer rather than an error
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def make_app(served: Served, limits: Limits) -> FastAPI:
    """Return the application for a model.

    `POST /predict` takes `{"inputs": TEXT or [TEXT, …], "parameters": {…}}`, where base64 stands for an image and
    `{"question": TEXT, "context": TEXT}` for a question, and returns what the pipeline for the task returns, a list for
    a list. `GET /model`, `/health` (200 as long as it runs), `/ready` (503 while it stops), `/metrics` (Prometheus).
    Errors are `{"error": SENTENCE}`.
    """
    batcher: Batcher
    metrics: Metrics

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher, metrics
        metrics = Metrics(lambda: len(batcher))
        batcher = Batcher(
            served.answer, most=limits.batch, wait=limits.wait, room=limits.queue, ran=metrics.batches.observe
        )
        app.state.batcher = batcher
        batcher.start()
        yield
        await batcher.close()

    app = FastAPI(title="sparsify serve", version=__version__, lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        stops = batcher.closed
        return JSONResponse({"status": "stopping" if stops else "ready"}, 503 if stops else 200)

    @app.get("/model")
    async def model() -> dict[str, Any]:
        most = min(limits.length, served.most or limits.length)
        return {
            "model": served.name,
            "task": served.task,
            "engine": served.engine,
            "limits": {**vars(limits), "length": most},
        }

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        began = time.perf_counter()
        try:
            status, content = 200, await _predict(request)
        except Refused as refused:
            status, content = refused.status, {"error": refused.text}
        metrics.requests.labels(str(status)).inc()
        metrics.seconds.observe(time.perf_counter() - began)
        return JSONResponse(content, status, {"Retry-After": "1"} if status == 503 else None)

    async def _predict(request: Request) -> Any:
        inputs, given = _asked(await _body(request, limits.body), served.fields)
        texts = inputs if isinstance(inputs, list) else [inputs]
        if len(texts) > limits.texts:
            raise Refused(413, f"{len(texts):,} inputs; at most {limits.texts:,} are taken in one request")
        try:
            chosen = served.parameters(given)
            prepared = await run_in_threadpool(served.prepared, texts, limits)
            answers = await asyncio.wait_for(batcher.submit(prepared, chosen), limits.timeout)
        except InputError as error:
            raise Refused(422, str(error)) from None
        except FullError:
            raise Refused(503, f"{len(batcher):,} inputs wait already; try again") from None
        except ClosedError:
            raise Refused(503, "the server stops") from None
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            raise Refused(504, f"no answer within {limits.timeout:g} s") from None
        except Exception as error:  # whatever a model does
            raise Refused(500, f"the model raised {type(error).__name__}") from error
        metrics.texts.inc(len(texts))
        answers = [_plain(answer) for answer in answers]
        return answers if isinstance(inputs, list) else answers[0]

    return app


async def _body(request: Request, most: int) -> bytes:
    """Return the body of a request; it is not read on once it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"more than {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _asked(body: bytes, fields: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Return inputs and parameters of a request; an input has texts of these names, or is one."""
    one = json.dumps({name: f"a {name}" for name in fields} or "a text")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, f'the body is no JSON: send {{"inputs": {one}}}') from None
    inputs: Any = data.get("inputs") if isinstance(data, dict) else None
    every = inputs if isinstance(inputs, list) else [inputs]
    texts = [text for each in every for text in _texts(each, fields)]
    if not every or not all(isinstance(text, str) for text in texts):
        what = f"an object with {' and '.join(fields)}" if fields else "a text"
        raise Refused(422, f'"inputs" must be {what}, or a list of them: {{"inputs": [{one}]}}')
    if unknown := sorted(set(data) - {"inputs", "parameters"}):
        raise Refused(422, f"there is no field {unknown[0]!r}; there are inputs and parameters")
    given = data.get("parameters") or {}
    if not isinstance(given, dict):
        raise Refused(422, '"parameters" must be an object')
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused(422, "a text holds half of a surrogate pair, which is no character") from None
    return inputs, given


def _texts(given: Any, fields: tuple[str, ...]) -> list[Any]:
    """Return the texts of an input; None among them where it is not what it must be."""
    if not fields:
        return [given]
    return [given[name] for name in fields] if isinstance(given, dict) and set(given) == set(fields) else [None]


def _plain(value: Any) -> Any:
    """Return an answer as JSON has it: numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
