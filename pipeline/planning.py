"""What is left to do: the manifest, minus what the tables hold already. Opens no audio.

A recording is done when the ledger holds its work key: a hash of what it is called, where it lies,
what the store says of the object now, and the fingerprint of models and configuration. So changed
audio and new models are done again, and nothing else is.
"""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from fsspec.implementations.local import LocalFileSystem

from pipeline.audio import explain_store_error
from pipeline.manifest import Manifest
from pipeline.schema import PLANNED
from pipeline.storage import StoreError, filesystem_for

pc: Any = pyarrow.compute  # its stubs know no plain str or bool beside an array

Fact = tuple[str, int]  # what the store says of an object: its version, its size in bytes
_Facts = dict[str, Fact]

# Errors that lie in the bytes or in the manifest: the same recording would fail the same way. All
# others (StoreUnavailable, AccessDenied, FileMissing, a crash, a bug) may pass: `retry` takes them.
PERMANENT = frozenset(
    {
        *("BadManifestRow", "DuplicateId", "BadRange", "BadRate"),
        *("EmptyFile", "NotAFile", "NotAudio", "NoAudioStream", "NoSamples", "NonFinite"),
        *("OutOfRange", "TooLarge", "TooLong", "TooManyChannels", "TooShort"),
        *("Truncated", "Undecodable"),
    }
)

MISSING = "missing"  # the version of an object that is not there,
DENIED = "denied"  # and of one that we may not see

_NO_VERSION = {"FileMissing": MISSING, "AccessDenied": DENIED, "BadUri": ""}

_LOOKUPS = 32  # requests to the store at a time
_LIST_FROM = 20  # recordings in one directory: from here on one listing beats asking for each
_ROWS = 1 << 20  # rows hashed at a time
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. `todo` has the schema PLANNED."""

    todo: pa.Table
    n_manifest: int
    n_done: int  # in the tables already, errors included
    n_errors_kept: int  # of these, errors that stay as they are
    n_changed: int  # to do because the audio has changed since
    n_retried: int  # to do because they failed before
    n_duplicates: int  # manifest rows that repeated another one
    bytes: int  # to read
    known_s: float  # seconds of audio to do, as far as the manifest gives a duration


def make_plan(
    manifest: Manifest,
    ledger: pa.Table,
    fingerprint: str,
    options: Mapping[str, Any],
    *,
    retry: Literal["none", "errors"] = "none",
) -> Plan:
    """Compare the manifest with the ledger (recording_id, work_key, attempts, status, error_type).

    `retry="errors"` takes up again what failed for a reason outside the audio. A recording whose
    labels are there but whose file is not any more keeps its labels. Raises StoreError when the
    store does not answer: guessing versions then would label everything again.
    """
    planned = _with_versions(manifest.table, fingerprint, options)
    known = _look_up(planned["recording_id"], ledger)
    is_error = _mask(pc.equal(known["status"], "error"))
    is_same = _mask(pc.equal(known["work_key"], planned["work_key"]))
    is_known = _mask(known["work_key"].is_valid())
    is_gone = _mask(pc.is_in(planned["version"], pa.array([MISSING, DENIED])))
    is_permanent = _mask(pc.is_in(known["error_type"], pa.array(sorted(PERMANENT))))
    is_retried = is_same & is_error & ~is_permanent & (retry == "errors")
    is_done = (is_same & ~is_retried) | (is_gone & is_known & ~is_error)
    state = _state(known["work_key"], known["attempts"])
    attempts = np.where(is_same, _numbers(known["attempts"]) + 1, 1)
    planned = planned.append_column(
        "supersedes", pc.if_else(pa.array(is_known), state, "")
    ).append_column("attempts", pa.array(attempts, pa.int32()))
    todo = planned.filter(pa.array(~is_done)).select(PLANNED.names).cast(PLANNED)
    return Plan(
        todo=todo,
        n_manifest=planned.num_rows,
        n_done=int(is_done.sum()),
        n_errors_kept=int((is_done & is_error).sum()),
        n_changed=int((is_known & ~is_same & ~is_done).sum()),
        n_retried=int(is_retried.sum()),
        n_duplicates=manifest.n_duplicates,
        bytes=pc.sum(todo["bytes"]).as_py() or 0,
        known_s=pc.sum(todo["length_s"]).as_py() or 0.0,
    )


def count_missing(todo: pa.Table, ledger: pa.Table) -> int:
    """How many planned recordings the ledger does not hold in the attempt that was planned."""
    held = _state(ledger["work_key"], ledger["attempts"])
    found = pc.is_in(_state(todo["work_key"], todo["attempts"]), held)
    return int(todo.num_rows - (pc.sum(found).as_py() or 0))


def _look_up(ids: Any, ledger: pa.Table) -> dict[str, Any]:
    """The ledger's columns in the order of `ids`, null where it does not know an id."""
    # 64-bit offsets: ten million ids hold more than 2 GiB of text
    position = pc.index_in(
        ids.cast(pa.large_string()), value_set=ledger["recording_id"].cast(pa.large_string())
    )
    columns = ("work_key", "attempts", "status", "error_type")
    return {name: ledger[name].take(position) for name in columns}


def _state(work_keys: Any, attempts: Any) -> Any:
    """What a recording's row in the ledger is called when a later one replaces it."""
    return pc.binary_join_element_wise(work_keys, attempts.cast(pa.string()), ":")


def _mask(values: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(pc.fill_null(values, False)).astype(bool)


def _numbers(values: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(pc.fill_null(values, 0)).astype(np.int64)


def _with_versions(table: pa.Table, fingerprint: str, options: Mapping[str, Any]) -> pa.Table:
    """The manifest with what the store says of each object, and the work keys."""
    is_good = pc.equal(table["error_stage"], "")
    encoded = pc.dictionary_encode(pc.if_else(is_good, table["uri"], "").cast(pa.large_string()))
    uris = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    facts = look_up_versions(uris, options)
    place = pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())
    versions = pa.array([version for version, _ in facts], pa.string())
    sizes = pa.array([size for _, size in facts], pa.int64())
    table = table.append_column("version", pc.take(versions, place))
    table = table.append_column("bytes", pc.take(sizes, place))
    keys = [
        pa.array(_work_keys(table.slice(start, _ROWS), fingerprint), pa.string())
        for start in range(0, table.num_rows, _ROWS)
    ]
    return table.append_column("work_key", pa.chunked_array(keys, pa.string()))


def _work_keys(table: pa.Table, fingerprint: str) -> list[str]:
    names = ("recording_id", "uri", "offset_s", "length_s", "language", "version")
    columns = (table[name].to_pylist() for name in names)
    return [work_key(*row, fingerprint) for row in zip(*columns, strict=True)]


def work_key(*parts: str | float) -> str:
    """128 bits over the parts, each with its length before it so that none runs into the next."""
    text = "".join([f"{len(part)}:{part}" for part in map(str, parts)])
    return blake2b(text.encode(), digest_size=16).hexdigest()


# --------------------------------------------------------------------------- versions


def look_up_versions(uris: Sequence[str], options: Mapping[str, Any]) -> list[Fact]:
    """(version, bytes) of every object, in order. A version is good for == and nothing else.

    Local files: size and mtime; object stores: ETag and size; others: size and modification time.
    Raises StoreError when the store does not answer.
    """
    by_directory = defaultdict(list)
    for uri in filter(None, uris):
        by_directory[posixpath.dirname(uri)].append(uri)
    tasks = [task for group in by_directory.values() for task in _tasks(group, options)]
    facts = {"": ("", 0)}
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        for found in pool.map(lambda task: task(), tasks):
            facts |= found
    return [facts[uri] for uri in uris]


def _tasks(uris: Sequence[str], options: Mapping[str, Any]) -> Iterator[Callable[[], _Facts]]:
    """Look-ups for the recordings of one directory: one listing for many, else in small groups."""
    try:
        # Here, not in the threads: fsspec keeps one instance, with its connections, per thread.
        fs, _ = filesystem_for(uris[0], options)
    except (ValueError, ImportError):  # an unknown scheme: decoding says so
        yield lambda: dict.fromkeys(uris, ("", 0))
        return
    is_listable = not isinstance(fs, LocalFileSystem) and "http" not in fs.protocol
    step = len(uris) if is_listable and len(uris) >= _LIST_FROM else _LIST_FROM
    for start in range(0, len(uris), step):
        yield partial(_facts_of, fs, uris[start : start + step], step >= len(uris) >= _LIST_FROM)


def _facts_of(fs: Any, uris: Sequence[str], by_listing: bool) -> _Facts:
    listed = _list(fs, posixpath.dirname(uris[0])) if by_listing else {}
    # What a listing lacks is asked for: names such as "a//b" do not list as they are spelt.
    return {uri: listed.get(fs._strip_protocol(uri)) or _ask(fs, uri) for uri in uris}


def _list(fs: Any, directory: str) -> _Facts:
    try:
        return {entry["name"]: _fact(entry) for entry in fs.ls(directory, detail=True)}
    except OSError:
        return {}


def _ask(fs: Any, uri: str) -> Fact:
    try:
        if isinstance(fs, LocalFileSystem):
            status = Path(uri).stat()
            return f"{status.st_size}-{status.st_mtime_ns}", status.st_size
        return _fact(fs.info(fs._strip_protocol(uri)))
    except Exception as error:
        known = explain_store_error(error)
        if known.kind == "StoreUnavailable":
            raise StoreError(f"{uri}: cannot be looked up: {known}") from error
        return _NO_VERSION[known.kind], 0


def _fact(info: Mapping[str, Any]) -> Fact:
    size = info.get("size") or 0
    stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    return f"{stamp.strip(chr(34))}-{size}", size
