"""The write stage: a receipt for what was stored, or the reason why nothing was."""

import time
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.stages.build import with_absolute_paths
from pipeline.stages.receipt import Receipt, receipt_of
from pipeline.stages.write import write_rows
from pipeline.tables.bundles import BUNDLES
from tests.faults.test_store_faults import TIMEOUT_S
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.faulty_wire import Fault, faulty_wire
from tests.support.s3_server import S3

ROWS = bundle(window("a"), window("b", error="NotAudio", n_segments=0))


def write(root: str, options: dict[str, object], patience_s: float) -> Receipt:
    rows = write_rows(ROWS, root=root, options=options, run=RUN, patience_s=patience_s)
    return receipt_of(rows.to_pylist()[0])


def impatient(s3: S3) -> dict[str, object]:
    config = {
        **{"s3": {"addressing_style": "path"}, "retries": {"mode": "standard", "max_attempts": 1}},
        **{"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S},
    }
    return {**s3.storage_options, "config_kwargs": config}


def test_a_receipt_counts_what_is_in_the_bundle(tmp_path: Path) -> None:
    receipt = write(str(tmp_path), {}, 0)
    assert (receipt.n_recordings, receipt.n_errors, receipt.n_segments) == (2, 1, 2)
    assert (receipt.errors, receipt.audio_s, receipt.fault) == (["NotAudio"], 20.0, "")
    assert len(list(tmp_path.glob(f"{BUNDLES}*/*.parquet"))) == 1


def test_a_bundle_waits_for_a_store_that_is_away(s3: S3) -> None:
    root = s3.new_bucket()
    with faulty_wire(s3) as wire:
        wire.fault = Fault("refuse", "PUT", BUNDLES, times=12, status=503)
        receipt = write(root, impatient(wire.s3), 60)
        assert wire.fault.n_met == 12
    assert (receipt.n_recordings, receipt.fault) == (2, "")


def test_a_store_that_stays_away_is_a_fault_and_no_exception(s3: S3) -> None:
    root = s3.new_bucket()
    started = time.monotonic()
    with faulty_wire(s3) as wire:
        wire.fault = Fault("refuse", "PUT", BUNDLES, times=10_000, status=503)
        receipt = write(root, impatient(wire.s3), 2)
    assert time.monotonic() - started < 60
    assert (receipt.n_recordings, receipt.n_segments, receipt.errors) == (0, 0, [])
    assert root in receipt.fault


def test_a_store_that_may_not_be_written_is_a_fault_at_once(tmp_path: Path) -> None:
    (tmp_path / "_bundles").write_text("a file where a directory must be")
    assert "_bundles" in write(str(tmp_path), {}, 900).fault


def test_workers_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    config = RunConfig(manifest="m.csv", output="out", model="model", vad="silero")
    found = with_absolute_paths(config)
    assert (found.output, found.model) == (str(tmp_path / "out"), str(tmp_path / "model"))
    assert (found.manifest, found.vad) == (str(tmp_path / "m.csv"), "silero")
    hub = with_absolute_paths(config.model_copy(update={"model": "iic/x", "output": "s3://b/x"}))
    assert (hub.output, hub.model) == ("s3://b/x", "iic/x")
