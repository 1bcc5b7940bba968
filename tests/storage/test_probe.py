import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import doctor
from pipeline.errors import StoreError
from pipeline.maintenance.verify import verify
from pipeline.storage import lease
from pipeline.storage.lease import sole_writer
from pipeline.storage.probe import check_local, examine, probe, writable
from pipeline.storage.store import LocalStore, Store, open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.s3_server import S3


class Faulty(LocalStore):
    """A local store that fails one check."""

    def __init__(self, root: Path, fault: str) -> None:
        super().__init__(str(root))
        self._fault = fault

    def put(self, key: str, data: bytes) -> None:
        if self._fault == "denied" or (self._fault == "read only" and "-wide" in key):
            raise PermissionError("Access Denied")
        chunked = self._fault == "chunked" and len(data) > 1000
        super().put(key, b"10000;chunk-signature=0\r\n" + data if chunked else data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._fault == "lying":
            super().put(key, data)
            return True
        return super().put_if_absent(key, data)

    def list(self, prefix: str) -> list[str]:
        if self._fault == "no listing":
            raise PermissionError("Access Denied")
        return [] if self._fault == "late listing" else list(super().list(prefix))

    def delete(self, keys: Any) -> None:
        if self._fault == "no deleting":
            raise PermissionError("Access Denied")
        super().delete(keys)


def failures(store: Store) -> dict[str, str]:
    return {check.name: check.text for check in examine(store) if check.state == "failed"}


def test_a_correct_store_passes_every_check(tmp_path: Path, s3: S3) -> None:
    for store in (open_store(str(tmp_path)), open_store(s3.new_bucket(), s3.storage_options)):
        assert {check.state for check in examine(store)} == {"ok"}
        assert not store.list("")


@pytest.mark.parametrize(
    ("fault", "name", "text"),
    [
        ("lying", "put if absent, twice", "overwrote an existing object although asked not to"),
        ("late listing", "list after write", "did not list an object just written"),
        ("no listing", "list after write", "no permission to list objects"),
        ("no deleting", "delete", "no permission to delete objects"),
        ("denied", "write", "no permission to write objects"),
        ("chunked", "checksum round trip", "1 MiB came back changed"),
        ("read only", "checksum round trip", "no permission to write objects"),
    ],
)
def test_a_failed_check_is_named(tmp_path: Path, fault: str, name: str, text: str) -> None:
    failed = failures(Faulty(tmp_path, fault))
    assert list(failed) == [name]
    assert text in failed[name]


def test_checks_after_a_failed_write_are_skipped(tmp_path: Path) -> None:
    states = [check.state for check in examine(Faulty(tmp_path, "denied"))]
    assert states[0] == "failed"
    assert set(states[1:]) == {"skipped"}


def test_a_wrong_clock_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Tomorrow":
            return cls.fromtimestamp((datetime.now(UTC) + timedelta(days=1)).timestamp(), tz)

    monkeypatch.setattr("pipeline.storage.probe.datetime", Tomorrow)
    (warning,) = (check for check in examine(LocalStore(str(tmp_path))) if check.state != "ok")
    assert (warning.name, warning.state) == ("clock", "warning")
    assert "86400 s apart" in warning.text
    probe(LocalStore(str(tmp_path)))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("InvalidAccessKeyId", "no valid credentials"),
        ("SignatureDoesNotMatch", "no valid credentials"),
        ("ExpiredToken", "no valid credentials"),
        ("RequestTimeTooSkewed", "clocks of this machine and of the store differ too much"),
        ("AccessDenied", "no permission to write objects"),
        ("NoSuchBucket", "cannot be read and written"),
        ("InternalError", "no usable answer"),
    ],
)
def test_each_refusal_of_a_store_has_its_own_message(tmp_path: Path, code: str, text: str) -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    class Refusing(LocalStore):
        def put(self, key: str, data: bytes) -> None:
            answer = {"Error": {"Code": code, "Message": "refused"}}
            raise translate_boto_error(ClientError(answer, "PutObject"))

    assert text in failures(Refusing(str(tmp_path)))["write"]


def test_missing_credentials_are_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    root = s3.new_bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no valid credentials" in failures(open_store(root, s3.storage_options))["write"]


def test_an_endpoint_without_a_server_is_named() -> None:
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "key": "x",
        "secret": "y",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    assert "no usable answer" in failures(open_store("s3://bucket", options))["write"]


# --------------------------------------------------------------------------- one writer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lease with short times."""
    defaults = {"renew_s": 0.1, "expire_s": 0.5, "settle_s": 0.05}
    monkeypatch.setattr(
        "pipeline.storage.probe.sole_writer", lambda store: lease.sole_writer(store, **defaults)
    )
    yield


@pytest.mark.usefixtures("patience")
def test_a_store_that_ignores_conditions_needs_a_single_writer(s3: S3, quick: None) -> None:
    store = open_store(s3.new_bucket("lying"), s3.storage_options)
    with (
        pytest.raises(StoreError, match=r"overwrote an existing object.*single_writer: true"),
        writable(store),
    ):
        pass
    with writable(store, single_writer=True) as leased:
        for name in "ab":
            write_bundle(leased, RUN, bundle(window(name)))
            publish(leased, RUN)
        assert not leased.put_if_absent("_log/00000000000000000001.json", b"second")
    assert verify(store).n_recordings == 2
    assert not verify(store).problems
    assert lease.KEY not in store.list("")


def test_a_single_writer_does_not_excuse_other_faults(tmp_path: Path) -> None:
    store = Faulty(tmp_path, "late listing")
    with pytest.raises(StoreError, match="did not list"), writable(store, single_writer=True):
        pass


def test_a_correct_store_needs_no_lease(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    with writable(store, single_writer=True) as same:
        assert same is store
        assert not store.list("")


def hold(store: Store, turn_s: float = 0.05) -> threading.Event:
    """The lease of another process, renewed until the event is set."""
    done = threading.Event()

    def renew() -> None:
        turn = 0
        while not done.wait(turn_s):
            turn += 1
            store.put(lease.KEY, json.dumps({"lease": "x", "host": "h", "turn": turn}).encode())

    store.put(lease.KEY, json.dumps({"lease": "x", "host": "h", "turn": 0}).encode())
    threading.Thread(target=renew, daemon=True).start()
    return done


def test_a_second_writer_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    done = hold(store)
    with (
        pytest.raises(StoreError, match="another run writes here"),
        sole_writer(store, expire_s=5.0),
    ):
        pass
    done.set()


def test_the_lease_of_a_crashed_writer_is_taken_over(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put(lease.KEY, b'{"lease": "dead", "turn": 7}')
    with sole_writer(store, expire_s=0.3, settle_s=0.0) as leased:
        assert leased.put_if_absent("_log/1", b"mine")


def test_a_writer_that_lost_its_lease_cannot_commit(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    with sole_writer(store, renew_s=60, expire_s=0.1, settle_s=0.0) as leased:
        store.put(lease.KEY, b'{"lease": "theirs", "pid": 42, "host": "there"}')
        with pytest.raises(StoreError, match="the lease was lost to process 42 on there"):
            leased.put_if_absent("_log/1", b"mine")
    assert lease.KEY in store.list(""), "the lease of the other process stays"


def test_a_lease_is_renewed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    with sole_writer(store, renew_s=0.02, settle_s=0.0):
        before = json.loads(store.get(lease.KEY))["turn"]
        time.sleep(0.3)
        assert json.loads(store.get(lease.KEY))["turn"] > before


# --------------------------------------------------------------------------- the command


def run_doctor(*arguments: str) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(doctor.main)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_doctor_accepts_a_directory(tmp_path: Path) -> None:
    code, output = run_doctor(str(tmp_path / "new"))
    assert code == 0
    assert output.count("ok") >= 9


def test_the_doctor_says_what_is_wrong_and_what_to_do(s3: S3) -> None:
    endpoint = f"client_kwargs.endpoint_url={s3.endpoint}"
    style = "config_kwargs.s3.addressing_style=path"
    code, output = run_doctor(s3.new_bucket("lying"), "--set", endpoint, "--set", style)
    assert code == 1
    assert "failed" in output
    assert "single_writer: true" in output.replace("\n", " ")


def test_the_doctor_reads_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"manifest: {tmp_path}\noutput: {tmp_path / 'out'}\n")
    assert run_doctor(str(path))[0] == 0
    assert run_doctor(str(path), "--set", "outptu=x")[0] == 2


def test_a_local_directory_is_checked_without_making_it(tmp_path: Path) -> None:
    check_local(LocalStore(str(tmp_path / "a" / "b")))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in ("/proc/nope", str(tmp_path / "file" / "b")):
        with pytest.raises(StoreError, match=f"{place}: cannot be written"):
            check_local(LocalStore(place))
