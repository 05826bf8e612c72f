"""What a server takes, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server; what is beyond them is refused at once, with the reason."""

    batch: int = 16
    """The most texts that run together."""

    wait: float = 0.005
    """Seconds that the first text of a batch waits for others."""

    queue: int = 1024
    """The most texts that wait; more are refused with 503."""

    timeout: float = 30.0
    """Seconds after which a request is given up with 504."""

    texts: int = 256
    """The most texts of one request."""

    length: int = 512
    """The most tokens of one text."""

    body: int = 2**20
    """The most bytes of one request."""

    pixels: int = 2**24
    """The most pixels of the images of one request."""
