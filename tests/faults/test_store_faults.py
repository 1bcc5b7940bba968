"""Faults of networks and stores, made by a proxy: publish, read and verify go through it.

Every fault must give the right rows, or one error that names the object, in bounded time. Nothing
may be lost or doubled, and the next publish must succeed. For each class of faults there is a
negative control: the same fault with a client that lacks the protection against it.

19 temporary faults, 11 lasting ones, 403 from any of the first hundred requests on, two late
commits: 0 violations. The most dangerous fault is a flipped bit in the fingerprint of a record or a
bundle.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from jobs import compact, query, release
from jobs import verify as verify_job
from pipeline.errors import StoreError
from pipeline.maintenance.verify import verify
from pipeline.storage.store import Store, open_store
from pipeline.tables import bundles
from pipeline.tables import commit_log as commits
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state
from pipeline.tables.parquet import from_parquet, read_files
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_RUN, RUN, bundle, window
from tests.support.crashing_stores import CrashingStore
from tests.support.faulty_wire import Fault, Wire, faulty_wire
from tests.support.s3_server import S3
from tests.support.small_output import FIRST, write_first

pytestmark = pytest.mark.usefixtures("patience")

ALWAYS = 10_000
TIMEOUT_S = 0.3
BOUND_S = 8.0  # for one call over a network that stays broken, with the short timeouts below


@dataclass(frozen=True, slots=True)
class Output:
    """One root, as three stores: through the proxy, the same without retries, and directly."""

    wire: Wire
    proxied: Store
    once: Store  # without retries
    direct: Store


def open_output(s3: S3, wire: Wire, fault: str = "plain") -> Output:
    root = s3.new_bucket(fault)

    def options(n_retries: int) -> dict[str, Any]:
        config = {
            "s3": {"addressing_style": "path"},
            "connect_timeout": TIMEOUT_S,
            "read_timeout": TIMEOUT_S,
            "retries": {"mode": "standard", "max_attempts": n_retries},
        }
        return {**wire.s3.storage_options, "config_kwargs": config}

    proxied, once = (open_store(root, options(n_retries)) for n_retries in (1, 0))
    # s3fs adds its own retries to those of botocore; five of them would take minutes here.
    for store, n_rounds in ((proxied, 2), (once, 1)):
        for client in (store.filesystem, store._conditional):  # type: ignore[attr-defined]
            client.retries = n_rounds
    return Output(wire, proxied, once, open_store(root, s3.storage_options))


@pytest.fixture(scope="module")
def wire(s3: S3) -> Iterator[Wire]:
    with faulty_wire(s3) as running:
        yield running


@pytest.fixture(scope="module")
def shared(s3: S3, wire: Wire) -> Output:
    """Shared by all tests, because making the clients takes longer than the tests."""
    return open_output(s3, wire)


def emptied(output: Output) -> Output:
    output.wire.reset()
    output.direct.delete(output.direct.list(""))
    return output


@pytest.fixture
def output(shared: Output) -> Output:
    return emptied(shared)


Rows = dict[str, list[tuple[str, ...]]]


def rows(store: Store) -> Rows:
    """The rows that readers get; `verify` checks that the tables agree."""
    state = read_state(store)
    columns = {"recordings": ["recording_id", "status", "version"], "transcripts": ["text"]}
    found = {}
    for table, names in columns.items():
        paths = [file.path for file in state.table(table, RUN.fingerprint)]
        found[table] = sorted(
            tuple(row.values()) for row in read_files(store, table, paths, names).to_pylist()
        )
    return found


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of `write_first` without a fault."""
    store = open_store(str(tmp_path_factory.mktemp("right")))
    write_first(store)
    publish(store, RUN)
    return rows(store)


def in_text(text: bytes, skip: int = 0) -> Callable[[bytes], int]:
    """The position of `text` in an answer, plus `skip`; the middle if it is not in it."""

    def at(body: bytes) -> int:
        position = body.find(text)
        return len(body) // 2 if position < 0 else position + skip

    return at


HEX = in_text(b'"fingerprint": "', 16)
BUNDLE, PART, RECORD = "/_bundles/", "/(transcripts|recordings)/", "/_log/0"

TEMPORARY: list[tuple[str, Fault]] = [
    ("a bundle cut off", Fault("truncate", "GET", BUNDLE)),
    ("a part cut off", Fault("truncate", "GET", PART)),
    ("a record cut off", Fault("truncate", "GET", RECORD)),
    ("a bit of a bundle", Fault("flip", "GET", BUNDLE)),
    ("a bit of a part", Fault("flip", "GET", PART)),
    ("a bit of a record", Fault("flip", "GET", RECORD, at=HEX)),
    ("a bundle's PUT reset", Fault("reset", "PUT", BUNDLE)),
    ("PUTs of parts reset", Fault("reset", "PUT", PART, times=2)),
    ("a record's PUT reset", Fault("reset", "PUT", RECORD)),
    ("reads reset", Fault("reset", "GET", times=2, skip=3)),
    ("a part's answer lost", Fault("lost", "PUT", PART)),
    ("a record's answer lost", Fault("lost", "PUT", RECORD)),
    ("a storm of 503", Fault("refuse", "PUT|GET", times=3, skip=4)),
    ("a 500", Fault("refuse", status=500, skip=4)),
    ("slow answers", Fault("slow", times=5, wait_s=TIMEOUT_S / 3)),
    ("an answer slower than the timeout", Fault("slow", "PUT", PART, wait_s=TIMEOUT_S * 2)),
    ("a late bundle", Fault("late", "PUT", BUNDLE)),
    ("a late part", Fault("late", "PUT", PART)),
    ("a late record", Fault("late", "PUT", RECORD)),
]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in TEMPORARY])
def test_a_temporary_fault_changes_no_row(output: Output, fault: Fault, right: Rows) -> None:
    output.wire.fault = fault
    write_first(output.proxied)
    assert publish(output.proxied, RUN).n_recordings == len(FIRST)
    assert rows(output.proxied) == right
    assert fault.n_met == fault.times
    if fault.kind == "late":
        assert output.wire.arrived.wait(5)
        assert fault.late == [412 if fault.path == RECORD else 200]
    verdict = verify(output.direct)
    assert (verdict.problems, verdict.seq, verdict.n_recordings) == ([], 1, len(FIRST))


LASTING: list[tuple[str, Fault]] = [
    ("bundles cut off", Fault("truncate", "GET", BUNDLE)),
    ("parts cut off", Fault("truncate", "GET", PART)),
    ("records cut off", Fault("truncate", "GET", RECORD)),
    ("bits of bundles", Fault("flip", "GET", BUNDLE)),
    ("bits of parts", Fault("flip", "GET", PART)),
    ("bits of records", Fault("flip", "GET", RECORD, at=HEX)),
    ("PUTs of parts reset", Fault("reset", "PUT", PART)),
    ("503 of everything", Fault("refuse", skip=8)),
    ("500 of everything", Fault("refuse", status=500, skip=8)),
    ("403 of everything", Fault("refuse", status=403, skip=8)),
    ("PUTs of records too slow", Fault("slow", "PUT", RECORD, wait_s=TIMEOUT_S * 1.5)),
]


def error_of(act: Callable[[], Any]) -> str:
    """The error of `act`: one line that names the object, in bounded time; "" if it succeeded."""
    started_s = time.monotonic()
    text = ""
    try:
        act()
    except (OSError, StoreError) as error:
        text = str(error)
        assert "s3://" in text
        assert "\n" not in text
    assert time.monotonic() - started_s < BOUND_S
    return text


@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in LASTING])
def test_a_lasting_fault_is_one_error_and_the_next_publish_succeeds(
    output: Output, fault: Fault, right: Rows
) -> None:
    fault.times = ALWAYS
    write_first(output.direct)
    output.wire.fault = fault
    seen: list[Any] = []
    errors = [error_of(lambda: publish(output.proxied, RUN))]
    errors += [error_of(lambda: seen.append(rows(output.proxied)))]
    gave_up = fault.kind == "flip" and fault.path == BUNDLE  # it counts as corrupt
    nothing: Rows = {"recordings": [], "transcripts": []}
    assert not [found for found in seen if found not in (right, nothing)]
    assert any(errors) or gave_up
    assert fault.n_met > 1

    output.wire.fault = None
    assert verify(output.direct).problems == []
    if gave_up:  # recordings without a row are planned again
        assert rows(output.direct) == nothing
        write_first(output.direct)
    publish(output.proxied, OTHER_RUN)
    assert rows(output.proxied) == right
    assert verify(output.direct).problems == []


def test_permissions_lost_after_any_request_lose_no_rows(shared: Output, right: Rows) -> None:
    n_denied = 0
    for skip in range(1, 100, 5):
        output = emptied(shared)
        write_first(output.direct)
        output.wire.fault = Fault("refuse", status=403, skip=skip, times=ALWAYS)
        error = error_of(lambda: publish(shared.proxied, RUN))
        n_denied += bool(error)
        output.wire.fault = None
        publish(output.proxied, OTHER_RUN)
        assert rows(output.direct) == right
        if not error:
            break
    assert n_denied > 3


JOBS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "compact": (compact.main, []),
    "query": (query.main, ["SELECT 1"]),
    "release": (release.main, ["TARGET"]),
    "verify": (verify_job.main, []),
}


@pytest.mark.parametrize("name", JOBS)
def test_every_job_reports_a_missing_permission_in_one_line(
    output: Output, name: str, tmp_path: Path
) -> None:
    write_first(output.direct)
    publish(output.direct, RUN)
    output.wire.fault = Fault("refuse", status=403, times=ALWAYS)
    main, arguments = JOBS[name]
    app = typer.Typer()
    app.command()(main)
    arguments = [str(tmp_path) if text == "TARGET" else text for text in arguments]
    endpoint = f"endpoint_url={output.wire.s3.endpoint}"
    done = CliRunner().invoke(app, [output.proxied.root, *arguments, "--set", endpoint])
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    assert "s3://" in done.output
    assert "Forbidden" in done.output or "Access Denied" in done.output
    assert len(done.output.strip().splitlines()) == 1


# --------------------------------------------------------------------------- a late commit


def commit_late(output: Output) -> int:
    """A publisher gives up its commit, another one commits, then the first commit arrives.

    Returns the status that the store answered to it.
    """
    write_bundle(output.direct, RUN, bundle(window("a")))
    output.wire.fault = fault = Fault("late", "PUT", RECORD)
    with pytest.raises(OSError, match=r"_log/.* no usable answer .*Read timeout"):
        publish(output.once, RUN)
    write_bundle(output.direct, OTHER_RUN, bundle(window("b")))
    assert publish(output.proxied, OTHER_RUN).n_recordings == 2
    assert output.wire.arrived.wait(5)
    return fault.late[0]


def ids(store: Store) -> list[str]:
    return [row[0] for row in rows(store)["recordings"]]


def test_a_commit_that_arrives_after_another_one_changes_nothing(output: Output) -> None:
    assert commit_late(output) == 412
    assert ids(output.direct) == ["a", "b"]


def test_on_a_store_that_ignores_conditions_a_late_commit_loses_rows(wire: Wire, s3: S3) -> None:
    """The negative control: the same delay, found by the same check."""
    output = emptied(open_output(s3, wire, "lying"))
    assert commit_late(output) == 200
    assert ids(output.direct) == ["a"]


# --------------------------------------------------------------------------- negative controls


def flipped(data: bytes, place: int) -> bytes:
    wrong = bytearray(data)
    wrong[place] ^= 0x01
    return bytes(wrong)


def plain(data: bytes) -> pa.Table | None:
    """The table as a reader without checksums reads it; None if the reader finds the damage."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError):
        return None
    return table


def test_without_page_checksums_a_flipped_bit_is_a_wrong_row(output: Output) -> None:
    write_first(output.direct)
    publish(output.direct, RUN)
    path = max(read_state(output.direct).files["transcripts"])
    truth = output.direct.get(path)
    table = plain(truth)
    assert table is not None
    seen = ((place, plain(flipped(truth, place))) for place in range(4, len(truth) // 2))
    place, wrong = next((n, found) for n, found in seen if found and not found.equals(table))

    output.wire.fault = Fault("flip", "GET", path, times=ALWAYS, at=lambda body: place)
    data = output.proxied.get(path)
    assert wrong.equals(plain(data))
    with pytest.raises(OSError, match="CRC"):
        from_parquet(data)


def test_without_its_digest_a_flipped_bit_in_a_record_hides_rows(
    output: Output, right: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_digest", lambda values: "the same for all")
    write_first(output.direct)
    publish(output.direct, RUN)
    output.wire.fault = Fault("flip", "GET", RECORD, at=HEX)
    assert 0 < len(rows(output.proxied)["transcripts"]) < len(right["transcripts"])


def test_without_its_digest_a_flipped_bit_gives_a_bundle_to_another_model(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "_is_whole", lambda key, data: True)
    write_bundle(output.direct, RUN, bundle(window("a")))
    output.wire.fault = Fault("flip", "GET", BUNDLE, times=ALWAYS, at=HEX)
    publish(output.proxied, RUN)
    assert ids(output.direct) == []
    (file,) = read_state(output.direct).files["recordings"].values()
    assert file.fingerprint != RUN.fingerprint


def test_a_client_that_does_not_count_bytes_accepts_half_a_file(output: Output) -> None:
    output.direct.put("file", b"0123456789")
    output.wire.fault = Fault("truncate", "GET", "/file")
    url = urlsplit(output.proxied.filesystem.sign(output.proxied.uri("file")))
    connection = HTTPConnection(url.netloc, timeout=5)
    connection.request("GET", f"{url.path}?{url.query}")
    assert connection.getresponse().read(10) == b"01234"
    connection.close()


@pytest.mark.parametrize("kind", ["reset", "lost", "refuse", "slow"])
def test_without_retries_a_temporary_fault_is_an_error(output: Output, kind: str) -> None:
    # Twice: aiohttp sends a PUT again if a kept connection turns out to be closed.
    output.wire.fault = Fault(kind, "PUT", BUNDLE, times=2, wait_s=1.5 * TIMEOUT_S)
    assert error_of(lambda: write_bundle(output.once, RUN, bundle(window("a"))))


class Careless(CrashingStore):
    """A client that ignores a refused write."""

    def put(self, key: str, data: bytes) -> None:
        with suppress(PermissionError):
            super().put(key, data)


def test_a_client_that_ignores_a_refusal_commits_missing_files(output: Output) -> None:
    write_first(output.direct)
    output.wire.fault = Fault("refuse", "PUT", PART, status=403, times=ALWAYS)
    publish(Careless(output.proxied), RUN)
    problems = verify(output.direct).problems
    assert any("is missing, but a commit lists it" in problem for problem in problems)
