"""Answer over HTTP with the labels of a run: python -m jobs serve CONFIG [--set KEY=VALUE]."""

import logging
import signal
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import RunConfig, load_config
from pipeline.console.commands import ConfigKeys, messages, one_command, refusing
from pipeline.errors import ConfigError
from pipeline.models.files import resolve_model_of
from pipeline.web.guard import is_loopback


def main(
    config_path: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file of a run: model, VAD and settings")
    ],
    overrides: ConfigKeys = None,
    token: Annotated[
        str,
        typer.Option(
            envvar="SENSEVOICE_SERVE_TOKEN",
            help="clients send it as their API key; several: separated by commas",
        ),
    ] = "",
) -> None:
    """Answer over HTTP with the labels of a run, batching across clients.

    Any OpenAI client can ask (POST /v1/audio/transcriptions), and clients of SenseVoice's api.py
    (POST /api/v1/asr). The labels are those that `label` would write. SIGTERM finishes what is
    under way. Exit codes: 0 stopped, 2 refused.
    """
    with refusing():
        config = load_config(config_path, overrides or [])
        tokens = frozenset(filter(None, (one.strip() for one in token.split(","))))
        _check(config, tokens)
        resolve_model_of(config)  # refused now, not when the service is up
        _run(config, tokens)


def _check(config: RunConfig, tokens: frozenset[str]) -> None:
    service = config.service
    if not tokens and not is_loopback(service.host):
        raise ConfigError(
            f"service.host {service.host}: others can reach it; set SENSEVOICE_SERVE_TOKEN"
        )
    if bool(service.tls_certificate) != bool(service.tls_key):
        raise ConfigError("service.tls_certificate and service.tls_key are set together")
    for path in filter(None, (service.tls_certificate, service.tls_key)):
        if not Path(path).is_file():
            raise ConfigError(f"{path}: no such file (service.tls_certificate, service.tls_key)")


def _run(config: RunConfig, tokens: frozenset[str]) -> None:
    import uvicorn

    from pipeline.serving.app import create_app
    from pipeline.serving.service import Service
    from pipeline.web.connections import limited_protocol
    from pipeline.web.listening import listen

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    service = config.service
    app = create_app(Service(config), tokens)
    # uvicorn sends the signal again when it has stopped; then nothing is left to be done.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with closing(listen(service.host, service.port)) as socket:
        shown = f"[{service.host}]" if ":" in service.host else service.host
        kind = "https" if service.tls_certificate else "http"
        messages().print(f"{kind}://{shown}:{socket.getsockname()[1]}/v1", soft_wrap=True)
        settings = uvicorn.Config(
            app,
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


app = one_command(main)

if __name__ == "__main__":
    app()
