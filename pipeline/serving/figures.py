"""What the service counts, for Prometheus. Knows numbers only."""

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_FIRST_SPEED = 10.0  # seconds of audio a second, until a batch has been measured


class Figures:
    """Counters of one service; its own registry, so that two in a process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "sensevoice_requests",
            "Requests by path and status",
            ["path", "status"],
            registry=self._registry,
        )
        self._clips = Histogram(
            "sensevoice_batch_clips",
            "Clips in a model batch",
            registry=self._registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self._audio_s = Counter(
            "sensevoice_audio_seconds",
            "Seconds of audio through the model",
            registry=self._registry,
        )
        self._model_s = Counter(
            "sensevoice_model_seconds", "Seconds in which the model ran", registry=self._registry
        )
        self._waiting_s = Gauge(
            "sensevoice_waiting_audio_seconds",
            "Seconds of audio that wait for the model",
            registry=self._registry,
        )
        self._lock = threading.Lock()
        self._speed = _FIRST_SPEED

    def count_request(self, path: str, status: int) -> None:
        """One answer. `path` is one of ours, or "other"."""
        self._requests.labels(path, str(status)).inc()

    def count_batch(self, n_clips: int, audio_s: float, took_s: float) -> None:
        """One model batch."""
        self._clips.observe(n_clips)
        self._audio_s.inc(audio_s)
        self._model_s.inc(took_s)
        with self._lock:  # the last batches count most
            self._speed += 0.3 * (audio_s / max(took_s, 1e-6) - self._speed)

    def seconds_for(self, audio_s: float) -> float:
        """How long the model will need for so much audio, as fast as it was lately."""
        return audio_s / max(self._speed, 0.01)

    def text(self, waiting_s: float) -> tuple[str, str]:
        """The figures in Prometheus's text format, and its content type."""
        self._waiting_s.set(waiting_s)
        return generate_latest(self._registry).decode(), CONTENT_TYPE_LATEST
