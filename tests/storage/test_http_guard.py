"""HTTP through the guard. A server on a loopback address stands for a host of a private network."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from pipeline.audio.windows import decode
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from pipeline.storage import http_guard
from pipeline.storage.versions import DENIED, MISSING, look_up_versions
from tests.support.sounds import encode, tone

ALLOWED = {"allow_private_hosts": True}


class _Handler(BaseHTTPRequestHandler):
    requested_paths: ClassVar[list[str]] = []
    audio: ClassVar[bytes] = encode(tone(1))

    def do_HEAD(self) -> None:
        self.requested_paths.append(self.path)
        if self.path.startswith("/redirect="):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect="))
        elif self.path.startswith("/status="):
            self.send_response(int(self.path.removeprefix("/status=")))
            self.send_header("Content-Length", "0")
        else:
            self.send_response(200)
            if self.path.startswith("/no-ranges"):
                self.send_header("Accept-Ranges", "none")
            if not self.path.startswith("/no-length"):
                self.send_header("Content-Length", str(len(self.audio)))
            self.send_header("ETag", '"e"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if not self.path.startswith(("/redirect=", "/status=", "/no-length-empty")):
            self.wfile.write(self.audio)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Listens on every loopback address: 127.0.0.1 and 127.0.0.2 are different hosts."""
    _Handler.requested_paths.clear()
    with ThreadingHTTPServer(("0.0.0.0", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def fetch(uri: str, options: dict[str, Any], max_bytes: int = 1 << 30) -> int:
    config = AudioConfig(max_bytes=max_bytes)
    return sum(len(window.waveform) for window in decode(uri, config, options))


def kind_of(uri: str, options: dict[str, Any], max_bytes: int = 1 << 30) -> tuple[str, str]:
    with pytest.raises(RecordingError) as caught:
        fetch(uri, options, max_bytes)
    return caught.value.kind, str(caught.value)


def test_an_intranet_is_read_when_that_is_allowed(server: ThreadingHTTPServer) -> None:
    assert fetch(f"http://127.0.0.1:{server.server_port}/a.wav", ALLOWED) == 16_000


@pytest.mark.parametrize("path", ["no-length.wav", "no-ranges.wav"])
def test_a_server_without_length_or_ranges_is_read(path: str, server: ThreadingHTTPServer) -> None:
    uri = f"http://127.0.0.1:{server.server_port}/{path}"
    assert fetch(uri, ALLOWED) == 16_000
    assert kind_of(uri, ALLOWED, max_bytes=100)[0] == "TooLarge"
    empty = f"http://127.0.0.1:{server.server_port}/no-length-empty"
    assert kind_of(empty, ALLOWED)[0] == "EmptyFile"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::1]"])
def test_a_private_host_is_refused_before_anything_is_sent(
    host: str, server: ThreadingHTTPServer
) -> None:
    kind, message = kind_of(f"http://{host}:{server.server_port}/a.wav", {})
    assert (kind, "allow_private_hosts" in message) == ("NotAllowed", True)
    assert not _Handler.requested_paths


def test_a_redirect_to_a_private_address_is_refused(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_public = http_guard.check_public
    # 127.0.0.1 stands for a public host that redirects to a private one.
    monkeypatch.setattr(
        http_guard, "check_public", lambda host: host == "127.0.0.1" or check_public(host)
    )
    private = f"http://127.0.0.2:{server.server_port}/secret"
    kind, _ = kind_of(f"http://127.0.0.1:{server.server_port}/redirect={private}", {})
    assert kind == "NotAllowed"
    assert "/secret" not in _Handler.requested_paths


def test_endless_redirects_are_an_error(server: ThreadingHTTPServer) -> None:
    path = "/redirect=" * 20 + "/a.wav"
    assert kind_of(f"http://127.0.0.1:{server.server_port}{path}", ALLOWED)[0] == "StoreUnavailable"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "FileMissing"), (403, "AccessDenied"), (401, "AccessDenied"), (503, "StoreUnavailable")],
)
def test_each_http_status_has_its_error_type(
    status: int, kind: str, server: ThreadingHTTPServer
) -> None:
    assert kind_of(f"http://127.0.0.1:{server.server_port}/status={status}", ALLOWED)[0] == kind


def test_the_look_up_of_a_version_is_guarded_too(server: ThreadingHTTPServer) -> None:
    base = f"http://127.0.0.1:{server.server_port}"
    assert look_up_versions([f"{base}/a.wav"], {}) == [(DENIED, 0)]
    assert not _Handler.requested_paths
    size = len(_Handler.audio)
    assert look_up_versions([f"{base}/a.wav", f"{base}/status=404"], ALLOWED) == [
        (f"e-{size}", size),
        (MISSING, 0),
    ]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1"),
        *("::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b:1::1"),
        # Metadata services of clouds: Azure, Alibaba, Volcengine, Oracle, AWS, Google, Scaleway
        *("168.63.129.16", "100.100.100.200", "100.96.0.96", "192.0.0.192", "fd00:ec2::254"),
        *("fd20:ce::254", "fd00:42::42", "192.80.8.124"),
        # Other spellings of them: mapped, NAT64, 6to4, compatible, translated, ISATAP, Teredo
        *("::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a83f:8110::1", "::169.254.169.254"),
        *("::ffff:0:169.254.169.254", "2001:4860:4860::5efe:a9fe:a9fe", "2001:0:a9fe:a9fe::1"),
        *("64:ff9b:1::a9fe:a9fe", "fec0::1", "fe80::a9fe:a9fe%eth0", "192.88.99.1", "5f00::1"),
        *("ff0e::1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "2001:db8::1"),
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    with pytest.raises(RecordingError):
        http_guard.check_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public_addresses_are_allowed(address: str) -> None:
    http_guard.check_public(address)
