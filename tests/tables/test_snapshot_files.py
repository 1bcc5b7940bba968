"""The filesystem through which DuckDB reads: threads share a file, but no position in it."""

import random
import threading
from pathlib import Path

from pipeline.storage.store import open_store
from pipeline.tables.snapshot_files import SnapshotFiles


def test_threads_that_read_one_file_get_the_bytes_that_they_asked_for(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(1 << 20)
    store = open_store(str(tmp_path))
    store.put("events/a.parquet", data)
    files = SnapshotFiles(store, "1")
    file = files.open(files.add("events/a.parquet"), "rb")
    wrong: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            at = chance.randrange(len(data))
            length = chance.randrange(4000)
            file.seek(at)
            if file.read(length) != data[at : at + length]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_is_read_as_files_are(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("events/a.parquet", b"0123456789")
    files = SnapshotFiles(store, "1")
    file = files.open(files.add("events/a.parquet"), "rb")
    assert (file.read(3), file.tell(), file.read()) == (b"012", 3, b"3456789")
    assert (file.seek(-4, 2), file.read(2), file.seek(-1, 1), file.read(99)) == (
        6,
        b"67",
        7,
        b"789",
    )
    assert file.read() == b""
    assert file.readable()
    assert file.seekable()
