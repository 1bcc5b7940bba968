"""Answer over HTTP with the labels of a run: python -m jobs serve CONFIG [--ray]."""

import logging
import os
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import RunConfig, load_config
from pipeline.console.commands import ConfigKeys, messages, one_command, refusing
from pipeline.errors import ConfigError
from pipeline.models.files import resolve_model_of
from pipeline.web.guard import SERVE_TOKEN, is_loopback, read_tokens


def main(
    config_path: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file of a run: model, VAD and settings")
    ],
    overrides: ConfigKeys = None,
    token: Annotated[
        str,
        typer.Option(
            envvar=SERVE_TOKEN,
            help="clients send it as their API key; several: separated by commas",
        ),
    ] = "",
    on_ray: Annotated[
        bool,
        typer.Option("--ray", help="service.replicas processes, on this machine or ray.address"),
    ] = False,
) -> None:
    """Answer over HTTP with the labels of a run, batching across clients.

    Any OpenAI client can ask (POST /v1/audio/transcriptions), and clients of SenseVoice's api.py
    (POST /api/v1/asr). The labels are those that `label` would write. SIGTERM finishes what is
    under way. Exit codes: 0 stopped, 2 refused.
    """
    with refusing():
        config = load_config(config_path, overrides or [])
        _check(config, read_tokens(token))
        resolve_model_of(config)  # refused now, not when the service is up
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        run = _run_on_ray if on_ray else _run
        run(config, token)


def _check(config: RunConfig, tokens: frozenset[str]) -> None:
    service = config.service
    if not tokens and not is_loopback(service.host):
        raise ConfigError(f"service.host {service.host}: others can reach it; set {SERVE_TOKEN}")
    if bool(service.tls_certificate) != bool(service.tls_key):
        raise ConfigError("service.tls_certificate and service.tls_key are set together")
    if config.audio.channels == "split":
        raise ConfigError(
            "audio.channels split: the answers of these interfaces have no channel; set mix, first "
            "or loudest"
        )
    if config.label.align != "none":
        raise ConfigError("label.align: an upload has no text to place; leave it out")
    for path in filter(None, (service.tls_certificate, service.tls_key)):
        if not Path(path).is_file():
            raise ConfigError(f"{path}: no such file (service.tls_certificate, service.tls_key)")


def _run(config: RunConfig, token: str) -> None:
    import uvicorn

    from pipeline.serving.app import create_app
    from pipeline.serving.service import Service
    from pipeline.web.connections import limited_protocol
    from pipeline.web.listening import listen

    service = config.service
    app = create_app(Service(config), read_tokens(token))
    # uvicorn sends the signal again when it has stopped; then nothing is left to be done.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with closing(listen(service.host, service.port)) as socket:
        _show(config, socket.getsockname()[1])
        settings = uvicorn.Config(
            app,
            loop="asyncio",  # "auto" takes uvloop, which Ray Serve brings: here it is as tested
            http=limited_protocol(service.max_connections),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=service.drain_s,
            ssl_certfile=service.tls_certificate or None,
            ssl_keyfile=service.tls_key or None,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[socket])


def _run_on_ray(config: RunConfig, token: str) -> None:
    from pipeline.serving.ray_serve import serving_on_ray
    from pipeline.web.listening import listen

    if token:
        os.environ[SERVE_TOKEN] = token  # the processes of a local Ray have it from here
    with closing(listen(config.service.host, config.service.port)) as socket:
        port = socket.getsockname()[1]  # is free now; Ray Serve's proxy opens it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        serving_on_ray(config, port, needs_token=bool(read_tokens(token))),
    ):
        _show(config, port)
        while True:
            time.sleep(1)


def _show(config: RunConfig, port: int) -> None:
    """Where the service listens, on stderr."""
    service = config.service
    shown = f"[{service.host}]" if ":" in service.host else service.host
    kind = "https" if service.tls_certificate else "http"
    messages().print(f"{kind}://{shown}:{port}/v1", soft_wrap=True)


app = one_command(main)

if __name__ == "__main__":
    app()
