"""What a server counts and measures, in Prometheus' text format."""

from collections.abc import Callable

from detexport.system.extras import extra_imports

with extra_imports():
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        generate_latest,
    )

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32)


class Statistics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "detexport_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self.latency = Histogram(
            "detexport_request_seconds",
            "Time from a request's header to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "detexport_requests_in_flight", "Requests being received or answered.", registry=self._registry
        )
        self._waiting = Gauge("detexport_queue_images", "Images that wait.", registry=self._registry)
        self._ready = Gauge("detexport_ready", "1 if the model is loaded.", registry=self._registry)
        self._images = Counter("detexport_images", "Images answered.", registry=self._registry)
        self._steps = Histogram(
            "detexport_image_seconds",
            "Time of an image by step; model is its share of a batch.",
            ["step"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "detexport_batch_images",
            "Images of a call of the graph.",
            buckets=BATCHES,
            registry=self._registry,
        )

    def watch(self, waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Read the length of the queue and the readiness whenever the metrics are read."""
        self._waiting.set_function(lambda: float(waiting()))
        self._ready.set_function(lambda: float(ready()))

    def observe_batch(self, images: int) -> None:
        """Record a call of the graph."""
        self._batches.observe(images)

    def observe_image(self, seconds: dict[str, float]) -> None:
        """Record an image that was answered, with the time of each step."""
        self._images.inc()
        for step, value in seconds.items():
            self._steps.labels(step).observe(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
