"""Counts of a server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Requests by status, their seconds, texts, sizes of batches, and how many texts wait."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sparsify_requests", "Requests, by HTTP status.", ["status"], registry=self.registry)
        self.texts = Counter("sparsify_texts", "Texts that were answered.", registry=self.registry)
        self.seconds = Histogram(
            "sparsify_request_seconds", "From request to answer.", buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "sparsify_batch_texts", "Texts that ran together.", buckets=SIZES, registry=self.registry
        )
        gauge = Gauge("sparsify_waiting_texts", "Texts that wait.", registry=self.registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self.registry)
