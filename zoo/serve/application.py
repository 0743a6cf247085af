"""The web application: a page, model metadata, and predictions."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from zoo.config.run import Run
from zoo.core.errors import one_line
from zoo.serve.batches import Batches
from zoo.serve.uploads import Limits, Unreadable, read_upload, read_uploads
from zoo.tasks.images import ImageModel

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = "*"
TOP = 3  # default of ?top=N, as in zoo predict
LINGER = 2.0  # seconds for which the rest of a rejected upload is discarded
DECODERS = 2  # images that are decoded concurrently, which bounds the memory for pixels

HEADERS = {
    # no content from other hosts, no framing, no MIME sniffing
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def predictor(task: ImageModel) -> Any:
    """A function from uint8 images, [n, C, H, W], to predictions, [n, outputs], both on the CPU."""

    def network(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return task.predict_step({"images": images.to(task.device)}).cpu()

    return network


class Application(Starlette):
    """The application that serves a trained network of images.

    Args:
        name: shown to users.
        metrics: test metrics.
        batches: dynamic batching; by default with the default sizes.
        hosts: names and addresses under which it is reached; a request for any other host is refused.
    """

    def __init__(
        self,
        task: ImageModel,
        run: Run,
        name: str,
        metrics: dict[str, float],
        limits: Limits,
        batches: Batches | None = None,
        hosts: Collection[str] = LOCAL,
    ) -> None:
        super().__init__(
            routes=[
                Route("/", self.page),
                Route("/model", self.model),
                Route("/predict", self.predict, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _refusal, ClientDisconnect: _hung_up, Exception: _fault},
            middleware=[Middleware(KnownHosts, hosts=hosts)],
            lifespan=self.run_queue,
        )
        self.spec, self.limits, self.batches = task.spec, limits, batches or Batches(predictor(task))
        self.to_predictions, self.outputs = task.to_predictions, task.describe_outputs()
        self.takes_top = "top" in inspect.signature(task.to_predictions).parameters
        channels, height, width = self.spec.shape
        self.about = {
            "name": name,
            "model": run.model["name"],
            "data": run.data["name"],
            "parameters": sum(parameter.numel() for parameter in task.parameters()),
            "task": task.task,
            "classes": list(self.outputs.names),
            "meaning": self.outputs.meaning,
            "input": {"channels": channels, "height": height, "width": width},
            "metrics": metrics,
            "limits": {"bytes": limits.bytes, "images": limits.images, "pixels": limits.pixels},
        }
        self.html = files("zoo.serve").joinpath("page.html").read_text(encoding="utf-8")
        self.decoding = asyncio.Semaphore(DECODERS)

    @asynccontextmanager
    async def run_queue(self, application: Starlette) -> AsyncIterator[None]:
        """Run the queue for the lifetime of the application."""
        running = asyncio.create_task(self.batches.run())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def page(self, request: Request) -> HTMLResponse:
        return HTMLResponse(self.html, headers=HEADERS)

    async def model(self, request: Request) -> JSONResponse:
        return JSONResponse(self.about)

    async def predict(self, request: Request) -> JSONResponse:
        """Predict uploaded images; the JSON is that of ``zoo predict --json``, with an error in the place of a file without one.

        Raises:
            HTTPException: none of the files can be read.
        """
        top = request.query_params.get("top", str(TOP))
        if not (top.isascii() and top.isdecimal() and int(top[:9])):
            raise HTTPException(400, f"top={top[:20]}: must be a positive integer")
        uploads = await read_uploads(request, self.limits)
        names, contents = zip(*uploads, strict=True)
        decoded = [await self._decoded(content) for content in contents]
        images = [each for each in decoded if not isinstance(each, Unreadable)]
        if not images:
            raise HTTPException(decoded[0].status, f"{names[0]}: {decoded[0].reason}")
        rows = await asyncio.gather(*map(self.batches.ask, images))
        options = {"top": int(top[:9])} if self.takes_top else {}
        predictions = iter(self.to_predictions(torch.stack(rows), **options))
        answers = [{"error": each.reason} if isinstance(each, Unreadable) else next(predictions).to_dict() for each in decoded]
        return JSONResponse([{"file": name, **answer} for name, answer in zip(names, answers, strict=True)])

    async def _decoded(self, content: bytes) -> Tensor | Unreadable:
        async with self.decoding:
            return await asyncio.to_thread(read_upload, content, self.spec, self.limits)


class KnownHosts:
    """Refuses requests for other hosts: the page of a stranger, whose name then resolves to this machine, is such a request.

    Args:
        hosts: names and addresses; ``*`` is any address, since only a name can be made to resolve to another machine.
    """

    def __init__(self, application: ASGIApp, hosts: Collection[str]) -> None:
        self.application, self.hosts = application, {*LOCAL, *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_known(Request(scope)):
            text = f"host {Request(scope).headers.get('host', '')[:100]!r} is not served here: zoo serve --allow-host adds a name"
            await Unread({"error": text}, 421, {"Connection": "close"})(scope, receive, send)
            return
        await self.application(scope, receive, send)

    def _is_known(self, request: Request) -> bool:
        with suppress(ValueError):  # not a host, or not an address
            host = (request.url.hostname or "").lower()
            return host in self.hosts or bool(ANY_ADDRESS in self.hosts and ipaddress.ip_address(host))
        return False


class Unread(JSONResponse):
    """Response to a request whose body was not read completely.

    Closing a connection while the client still sends resets it and loses the response, so the rest is discarded for a moment.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _refusal(request: Request, error: Exception) -> JSONResponse:
    texts = {404: "not found; routes are /, /model and /predict", 405: f"{request.method} is not allowed for {request.url.path}"}
    text = texts.get(error.status_code, error.detail)
    answer = Unread if error.status_code in (408, 413) else JSONResponse
    return answer({"error": text}, error.status_code, error.headers)


def _hung_up(request: Request, error: Exception) -> Response:
    print(f"a client hung up while it sent {request.method} {one_line(request.url.path, 100)}", file=sys.stderr, flush=True)
    return Response(status_code=400)  # which nobody receives


def _fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal server error; see the output of zoo serve"}, 500)
