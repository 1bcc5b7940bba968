"""Archives of recordings for the tests, made by the libraries whose users have them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from tests.support.demo import AUDIO, SHORT

Files = Mapping[str, bytes]  # name -> bytes, in this order


def demo_files(n: int = 3) -> dict[str, bytes]:
    """The first short recordings of the demo corpus by name."""
    return {row["audio"]: (AUDIO / row["audio"]).read_bytes() for row in SHORT[:n]}


def write_tar(path: Path, files: Files, mode: Any = "w", **options: Any) -> Path:
    """A tar of these files; mode w:gz compresses it."""
    with tarfile.open(path, mode, **options) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zst(path: Path, files: Files) -> Path:
    """A tar, compressed with zstd."""
    import zstandard

    plain = write_tar(path.with_suffix(".plain"), files)
    path.write_bytes(zstandard.compress(plain.read_bytes()))
    plain.unlink()
    return path


def write_zip(path: Path, files: Files, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_parquet(path: Path, files: Files, **columns: Sequence[Any]) -> Path:
    """As `datasets` stores audio: structs of bytes and path."""
    audio = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"audio": audio, **columns}), path, row_group_size=2)
    return path


def write_webdataset(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Samples of the demo corpus, by webdataset's own writer: audio and a .json each."""
    with webdataset.TarWriter(str(path)) as sink:
        for row in rows:
            stem, _, ending = row["audio"].rpartition(".")
            told = {name: row[name] for name in ("ref_text", "ref_language") if name in row}
            sink.write({"__key__": stem, ending: (AUDIO / row["audio"]).read_bytes(), "json": told})
    return path


WRITERS: Mapping[str, Callable[[Path, Files], Path]] = {
    "shard.tar": write_tar,
    "shard.tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "shard.tar.zst": write_zst,
    "shard.tar.bz2": lambda path, files: write_tar(path, files, "w:bz2"),
    "shard.zip": write_zip,
    "shard.parquet": write_parquet,
}


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
