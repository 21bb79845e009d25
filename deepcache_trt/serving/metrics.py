"""What a server tells Prometheus about itself."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        """All are 0."""
        self._registry = CollectorRegistry()
        self.waiting = Gauge(
            "deepcache_requests_in_flight", "Requests that wait or are drawn.", registry=self._registry
        )
        self._requests = Counter(
            "deepcache_requests", "Requests by what they were answered with.", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "deepcache_request_seconds", "From a request to its answer.", buckets=_SECONDS, registry=self._registry
        )
        self._images = Counter("deepcache_images", "Pictures that were drawn.", ["model"], registry=self._registry)
        self._calls = Counter(
            "deepcache_steps", "Calls of the denoiser by kind, of each picture.", ["kind"], registry=self._registry
        )
        self._batch = Histogram(
            "deepcache_batch_images",
            "Pictures that were drawn together.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self._engines = Counter(
            "deepcache_batches_by_engines",
            "Whether a batch found its engines open.",
            ["engines"],
            registry=self._registry,
        )

    def answered(self, status: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(status=str(status)).inc()
        self._seconds.observe(seconds)

    def painted(self, model: str, calls: Mapping[str, int], *, batch: int, opened: int) -> None:
        """A picture was drawn."""
        self._images.labels(model=model).inc()
        for kind, count in calls.items():
            self._calls.labels(kind=kind).inc(count)
        self._batch.observe(batch)
        self._engines.labels(engines="opened" if opened else "open").inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
