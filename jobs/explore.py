"""Browse, play and correct the labels in a browser: python -m jobs explore ROOT [--port 8001]."""

import getpass
import secrets
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from pipeline.console.commands import (
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Output,
    Root,
    Seq,
    find_output,
    messages,
    one_command,
    refusing,
)
from pipeline.errors import ConfigError
from pipeline.explorer.settings import Settings
from pipeline.manifest.access import AllowedRoots, make_allowed_roots
from pipeline.storage.address import is_uri
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.run_records import newest_records
from pipeline.web.guard import hosts_for, is_loopback

_CACHE = Path("~/.cache/sensevoice-pipeline/explore")


def main(
    root: Root,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0: any free one")] = 8001,
    host: Annotated[
        str, typer.Option(help="address to listen on; others than loopback need --token")
    ] = "127.0.0.1",
    token: Annotated[
        str, typer.Option(envvar="SENSEVOICE_EXPLORE_TOKEN", help="default: a new one each start")
    ] = "",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="host name that browsers use, if not the address (repeatable)"),
    ] = None,
    reviewer: Annotated[str, typer.Option(help="who corrects; default: your account")] = "",
    read_only: Annotated[
        bool, typer.Option("--read-only", help="show and play, but save nothing")
    ] = False,
    allowed_roots: Annotated[
        list[str] | None,
        typer.Option(help="where audio may be read; default: as in the newest run (repeatable)"),
    ] = None,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: ConfigKeysOrStorageOptions = None,
) -> None:
    """Browse, play and correct the labels of one snapshot in a browser.

    Prints an address that holds the token: open it. Corrections are saved beside the tables, each
    as an object of its own; they join the table `reviews` when the explorer ends, or at the next
    `compact`. Stop with Ctrl-C.
    """
    with refusing():
        found = find_output(root, options)
        if not token and not is_loopback(host):
            raise ConfigError(f"--host {host}: others can reach it; give a --token of your own")
        settings = Settings(
            root=found.root,
            options=found.options,
            seq=seq,
            fingerprint=fingerprint,
            allowed=_allowed(found, allowed_roots or (), seq, fingerprint),
            reviewer=reviewer or getpass.getuser(),
            read_only=read_only,
            token=token or secrets.token_urlsafe(24),
            hosts=hosts_for(host, frozenset(name or ())),
            cache=_CACHE.expanduser(),
        )
        _run(settings, host, port)


def _run(settings: Settings, host: str, port: int) -> None:
    try:
        import uvicorn

        from pipeline.explorer.app import create_app
        from pipeline.web.listening import listen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; pip install 'sensevoice-pipeline[explore]'"
        ) from error
    app = create_app(settings)
    with closing(listen(host, port)) as socket:
        place = socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        messages().print(f"http://{shown}:{place}/#token={settings.token}", soft_wrap=True)
        config = uvicorn.Config(
            app,
            loop="asyncio",  # not uvloop and httptools where Ray Serve has installed them
            http="h11",
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        with suppress(KeyboardInterrupt):  # uvicorn has closed the application before it raises
            uvicorn.Server(config).run(sockets=[socket])


def _allowed(
    found: Output, roots: list[str] | tuple[()], seq: int | None, fingerprint: str | None
) -> AllowedRoots:
    """The roots given, else those of the newest run that made these labels."""
    if roots:
        return make_allowed_roots("", roots, allow_http=any(map(is_uri, roots)))
    snapshot = open_snapshot(found.root, found.options, seq, fingerprint)
    record = newest_records(open_store(found.root, found.options)).get(snapshot.fingerprint)
    if record is None or not record.settings.get("manifest"):
        raise ConfigError(
            f"{found.root}: no record says where its audio lies; name it with --allowed-roots"
        )
    settings = record.settings
    return make_allowed_roots(
        settings["manifest"],
        settings.get("allowed_roots", ()),
        allow_http=settings.get("allow_http", False),
    )


app = one_command(main)

if __name__ == "__main__":
    app()
