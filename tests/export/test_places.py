"""Where exports and releases go: object stores too, and nowhere at all with --dry-run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import export as export_job
from jobs import release as release_job
from pipeline.errors import ExportError
from pipeline.export.write import export
from pipeline.storage.store import Store, open_store
from tests.support.explored import write_output
from tests.support.s3_server import S3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("places"))


def test_an_export_to_an_object_store_is_complete_when_its_last_object_is_there(
    root: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{s3.new_bucket()}/out/v1"
    store = open_store(target, s3.storage_options)
    written: list[str] = []
    put = type(store).put

    def noting(self: Store, key: str, data: bytes) -> None:
        written.append(key)
        put(self, key, data)

    monkeypatch.setattr(type(store), "put", noting)
    done = export(root, target, "sensevoice", options=s3.storage_options)
    assert written[-1] == "export.json"
    assert sorted(written) == list(store.list(""))
    lines = [json.loads(line) for line in store.get("train.jsonl").decode().splitlines()]
    assert len(lines) == done.n_segments == 6
    for line in lines:
        assert line["source"].startswith(f"{target}/audio/")
        assert store.get(line["source"].removeprefix(f"{target}/"))[:4] == b"RIFF"
    with pytest.raises(ExportError, match="exists and is not empty"):
        export(root, target, "nemo", options=s3.storage_options)


def test_a_dry_run_of_an_export_counts_and_writes_nothing(root: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    arguments = [root, "-o", str(target), "--format", "nemo", "--where", "recording_id = 'ann'"]
    done = CliRunner().invoke(export_job.app, [*arguments, "--dry-run"])
    assert done.exit_code == 0
    assert "would export 2 segments of 1 recordings" in done.stdout
    assert list(tmp_path.iterdir()) == []
    refused = CliRunner().invoke(export_job.app, [*arguments[:-1], "no_column = 1", "--dry-run"])
    assert refused.exit_code == 2


def test_a_dry_run_of_a_release_counts_and_writes_nothing(root: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    done = CliRunner().invoke(release_job.app, [root, "-o", str(target), "--dry-run"])
    assert done.exit_code == 0
    assert "would release commit" in done.stdout
    assert "3 recordings, 6 segments" in done.stdout
    assert not list(tmp_path.rglob("*.parquet"))
    (target / "something").mkdir(parents=True)
    (target / "something" / "x").touch()
    refused = CliRunner().invoke(release_job.app, [root, "-o", str(target), "--dry-run"])
    assert refused.exit_code == 2
    assert "is not empty" in refused.output
