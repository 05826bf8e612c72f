"""Run a server until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from sparsify.errors import SparsifyError
from sparsify.serving.app import make_app
from sparsify.serving.limits import Limits
from sparsify.serving.model import Served


class _Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, listens: Callable[[], None]) -> None:
        super().__init__(config)
        self._listens = listens

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listens()


def serve(served: Served, limits: Limits, place: socket.socket, listens: Callable[[], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; what was taken before is answered, for at most `limits.timeout`."""
    config = uvicorn.Config(
        make_app(served, limits),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(limits.timeout)),
    )
    with _ending_quietly():
        _Server(config, listens).run(sockets=[place])


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address. Raises SparsifyError where that is not to be had."""
    place: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        if place is not None:
            place.close()
        raise SparsifyError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
    return place


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """Uvicorn stops in good order at a signal, and then raises it again: nothing is left to be done with it."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
