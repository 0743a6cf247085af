"""HTTP connections that are closed when a client takes too long to send: half-sent requests would fill the server."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # to send the headers of a request, from the connection or from their first byte on
BODY_SECONDS = 90.0  # to send a body, whatever becomes of it; the application's own limit is shorter


class TimedProtocol(H11Protocol):
    """The HTTP/1.1 protocol of uvicorn, which limits only the time between two requests, with limits for each request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.awaited: Any = None  # what the running time limit is for: state of the client in h11
        self.time_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await(h11.IDLE)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await(self.conn.their_state)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        state = self.conn.their_state
        self._await(None if state is h11.IDLE else state)  # uvicorn limits the time until the next request begins

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def _await(self, state: Any) -> None:
        """Start the time limit of a state, unless it is running."""
        if state is self.awaited:
            return
        self.awaited = state
        if self.time_limit:
            self.time_limit.cancel()
        seconds = {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(state)
        self.time_limit = self.loop.call_later(seconds, self.transport.close) if seconds else None
