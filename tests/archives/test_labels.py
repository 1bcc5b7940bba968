"""Recordings in archives are labelled as loose files are, and again only if their bytes change."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import RunConfig
from pipeline.runs.execute import plan_run, prepare
from pipeline.stages.build import build_stages
from pipeline.storage.address import archive_of, split_member
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from tests.support.demo import demo_config, execute, label_here
from tests.support.s3_server import S3
from tests.support.shards import WRITERS, demo_files, write_tar

Row = dict[str, Any]


def config_of(tmp_path: Path, manifest: Path | str, *overrides: str) -> RunConfig:
    return demo_config(
        tmp_path / "out", f"manifest={manifest}", "ray.local=always", "vad=none", *overrides
    )


def planned(config: RunConfig) -> list[str]:
    """The names of what a run would label."""
    _, run = prepare(config)
    todo = plan_run(config, run).todo
    return [
        member.name if (member := split_member(uri)) else uri for uri in todo["uri"].to_pylist()
    ]


def labels(root: Path | str, options: Mapping[str, Any] | None = None) -> list[Row]:
    """Every label of every segment, by the name of its recording."""
    rows = []
    snapshot = open_snapshot(str(root), options)
    for table in ("transcripts", "languages", "emotions", "events"):
        for row in snapshot.read(table).to_pylist():
            address = row.pop("recording_id")
            member = split_member(address)
            row.pop("segment_id")
            name = member.name if member else Path(address).name
            rows.append({"table": table, "name": name, **flat(row)})
    return sorted(rows, key=lambda row: (row["table"], row["name"], row["start_s"], repr(row)))


def flat(row: Row) -> Row:
    """Without nesting, which pytest.approx does not take."""
    values: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            values |= flat({f"{name}.{key}": one for key, one in value.items()})
        elif isinstance(value, list):
            values |= flat({f"{name}.{index}": one for index, one in enumerate(value)})
        else:
            values[name] = value
    return values


def recordings(root: Path | str) -> dict[str, Row]:
    rows: list[Row] = open_snapshot(str(root)).read("recordings").to_pylist()
    return {row["member"]: row for row in rows}


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The labels of the same files, lying loose."""
    folder = tmp_path_factory.mktemp("loose")
    (folder / "in").mkdir()
    for name, data in demo_files().items():
        (folder / "in" / name).write_bytes(data)
    label_here(config_of(folder, folder / "in"))
    return labels(folder / "out")


@pytest.mark.usefixtures("ray_session")
def test_labels_from_a_store_are_those_of_loose_files(
    s3: S3, loose: list[Row], tmp_path: Path
) -> None:
    """Six archives of the same files, in one run on Ray."""
    bucket = s3.new_bucket()
    store = open_store(bucket, s3.storage_options)
    for name, write in WRITERS.items():
        store.put(f"in/{name}", write(tmp_path / name, demo_files()).read_bytes())
    root, options = f"{bucket}/out", json.dumps(s3.storage_options)
    config = config_of(
        *(tmp_path, f"{bucket}/in/shard.*", f"output={root}"),
        *(f"storage_options={options}", "ray.local=never"),
    )
    assert execute(config).n_unfinished == 0
    assert_same(labels(root, s3.storage_options), loose, n_archives=len(WRITERS))
    for row in open_snapshot(root, s3.storage_options).read("recordings").to_pylist():
        size = len(demo_files()[row["member"]])
        assert row["bytes"] == size
        assert row["version"].endswith(f"-{size}")
        assert archive_of(row["uri"]).startswith(f"{bucket}/in/shard.")
    assert planned(config) == []


def assert_same(found: list[Row], expected: list[Row], n_archives: int) -> None:
    """Probabilities differ in their last bits with the other clips of a model batch."""
    assert len(found) == n_archives * len(expected)
    for index, row in enumerate(found):
        assert row == pytest.approx(expected[index // n_archives], abs=1e-5)


# ------------------------------------------------------------------------------- changes


def test_only_what_changed_is_labelled_again(tmp_path: Path) -> None:
    """One member before the others, one behind, one rewritten at equal size; one is gone."""
    files = demo_files(4)
    path = write_tar(tmp_path / "a.tar", files)
    config = config_of(tmp_path, path)
    label_here(config)
    first, second, third, gone = files
    other = bytearray(files[second])
    other[-2_000:] = bytes(2_000)
    rest = {first: files[first], second: bytes(other), third: files[third]}
    write_tar(path, {"0.wav": files[first]} | rest | {"z.wav": files[gone]})
    assert planned(config) == ["0.wav", second, "z.wav"]
    label_here(config)
    assert planned(config) == []
    assert recordings(tmp_path / "out").keys() == {"0.wav", "z.wav", *files}

    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(data)))  # unreadable, but of the same version: it is not read
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert planned(config) == []

    path.write_bytes(data)
    os.utime(path, (1, 1))  # a new date alone
    assert planned(config) == []
    assert planned(config_of(tmp_path, path, "label.use_itn=false")) == [
        *("0.wav", first, second, third, "z.wav")
    ]

    store = open_store(config.output)  # nothing says now that the bytes are the same
    store.delete(store.list("_members/"))
    assert len(planned(config)) == 5


def test_an_archive_that_is_rewritten_after_the_plan_is_told(tmp_path: Path) -> None:
    files = demo_files(3)
    path = write_tar(tmp_path / "a.tar", files)
    config = config_of(tmp_path, path)
    _, run = prepare(config)
    todo = plan_run(config, run).todo
    write_tar(path, {"0.wav": files[next(iter(files))]} | files)
    windows = pa.concat_tables(build_stages(config, run).decode(todo))
    assert set(windows["error_type"].to_pylist()) == {"ChangedWhileRead"}
