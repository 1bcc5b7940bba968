"""The service on Ray Serve: the same application and queue in each replica, a model in each.

Ray Serve chooses a replica per request, starts others under load and replaces what died or hangs.
It batches nothing here: the queue of each replica does (shared_model). RayService's files name
`build_application`; `jobs serve --ray` uses `serving_on_ray`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from pipeline.config import RunConfig, ServiceConfig, load_config
from pipeline.errors import ConfigError, ModelError
from pipeline.flow.gpus import check_gpus, is_local
from pipeline.flow.session import ray_session
from pipeline.serving.app import create_app
from pipeline.serving.service import Service
from pipeline.stages.build import with_absolute_paths
from pipeline.web.guard import SERVE_TOKEN, App, Message, Receive, Scope, Send, read_tokens

NAME = "sensevoice"  # of the application
_HEALTH_PERIOD_S = 10.0  # Ray Serve replaces a replica after three failures
_CONSTRUCTIONS = 3  # of a replica whose model cannot be loaded; Ray Serve's own number is 20


class Replica:
    """One model and the requests that share it. Raises ModelError and ConfigError."""

    def __init__(self, config: RunConfig, needs_token: bool) -> None:
        self._tokens = read_tokens(os.environ.get(SERVE_TOKEN, ""))
        if needs_token and not self._tokens:  # it is not sent: Ray would keep it, and show it
            raise ConfigError(f"set {SERVE_TOKEN} in the environment of every node")
        self.service = Service(config)
        self.service.load()
        self.check_health()

    def __serve_build_asgi_app__(self) -> App:
        """What Ray Serve calls once the model is there (serve.ingress)."""
        return _one_request_id(create_app(self.service, self._tokens))

    def check_health(self) -> None:
        """What Ray Serve asks: as /readyz. Raises ModelError; then the replica is replaced."""
        is_ready, word = self.service.state()
        if not is_ready:
            raise ModelError(self.service.failure or f"the replica is {word}")


def _one_request_id(app: App) -> App:
    """Leave x-request-id to Ray Serve's proxy, which gives our application its own as a header."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, sending)

    return answer


def deploy(config: RunConfig, *, needs_token: bool) -> serve.Application:
    """The application that Ray Serve runs for this configuration."""
    make = serve.deployment(**options_of(config))
    return make(serve.ingress()(Replica)).bind(with_absolute_paths(config), needs_token)


def options_of(config: RunConfig) -> dict[str, Any]:
    """The options of its deployment, by Ray Serve's names."""
    limits = config.service
    return {
        "name": NAME,
        **_replicas(limits),
        "ray_actor_options": {
            "num_cpus": cpus_of_replica(config),
            "num_gpus": config.ray.num_gpus,
        },
        # More than service.max_requests, so that our own 429 tells when to come again.
        "max_ongoing_requests": limits.max_connections,
        "max_queued_requests": limits.max_connections,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1),
        "graceful_shutdown_timeout_s": limits.drain_s,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "max_constructor_retry_count": _CONSTRUCTIONS,
        "logging_config": LoggingConfig(enable_access_log=False),
    }


def cpus_of_replica(config: RunConfig) -> float:
    """The model's threads, and those that decode and find speech."""
    return config.ray.label_cpus + config.service.front_threads


def _replicas(limits: ServiceConfig) -> dict[str, Any]:
    if not limits.replicas_max:
        return {"num_replicas": limits.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=limits.replicas,
            max_replicas=limits.replicas_max,
            target_ongoing_requests=max(1, limits.max_requests // 4),  # long before the first 429
        )
    }


class Arguments(BaseModel):
    """The `args` of the application in a file for Ray Serve."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(description="YAML file of a run, on every node")
    settings: tuple[str, ...] = Field(default=(), description="as --set: key=value")


def build_application(arguments: Arguments) -> serve.Application:
    """For `import_path` of a file for Ray Serve, whose proxies others can reach. Needs a token."""
    return deploy(load_config(arguments.config, arguments.settings), needs_token=True)


@contextmanager
def serving_on_ray(config: RunConfig, port: int, *, needs_token: bool) -> Iterator[None]:
    """The service at this port of every node that has a replica, until the `with` block ends.

    Raises ConfigError if Ray Serve runs on the cluster already, ModelError if no replica starts.
    """
    limits = config.service
    check_gpus(config.ray)
    n_cpus = max(limits.replicas, limits.replicas_max) * cpus_of_replica(config)
    here = config.ray.model_copy(
        update={"num_cpus": max(config.ray.num_cpus or os.cpu_count() or 1, round(n_cpus + 0.5))}
    )
    ends_with_us = is_local(config.ray)
    _quiet()
    with ray_session(here):
        if serve.status().proxies:  # its address is not ours, so others may reach it
            raise ConfigError("Ray Serve runs on this cluster already; deploy to it with its files")
        serve.start(
            proxy_location="EveryNode",
            http_options=HTTPOptions(
                host=limits.host,
                port=port,
                ssl_certfile=limits.tls_certificate or None,
                ssl_keyfile=limits.tls_key or None,
            ),
            logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        )
        try:
            _run(deploy(config, needs_token=needs_token))
            yield
        finally:
            with suppress(TimeoutError):  # of 60 s; then what is under way is lost
                serve.delete(NAME)
            if not ends_with_us:  # else its proxies would listen for ever
                serve.shutdown()


def _run(application: serve.Application) -> None:
    try:
        serve.run(application, name=NAME)
    except RuntimeError as error:  # with the traceback of a replica
        raise ModelError(f"no replica of the service starts: {error}") from error


def _quiet() -> None:
    """Ray Serve tells of every step, also that it ignores options that it has taken before."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
