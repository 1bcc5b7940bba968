"""Read a manifest in any common format into one list of rows. Opens no audio.

A manifest is a file in parquet, JSON lines or CSV format (plain, gzip or zstd; detected from its
bytes, not its name), a glob of such files, a Kaldi data directory, a directory of audio, or
archives with audio inside. See rows.py for our columns, formats.py for those of other tools, and
members.py for archives.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.archives.index import MemberIndex
from pipeline.config import ManifestFormat
from pipeline.errors import ManifestError
from pipeline.manifest import kaldi
from pipeline.manifest.access import AllowedRoots, make_allowed_roots
from pipeline.manifest.files import read_raw
from pipeline.manifest.keys import hash_ids
from pipeline.manifest.listing import File, find_files
from pipeline.manifest.members import read_archives, which_are_archives, with_places
from pipeline.manifest.rows import MANIFEST, normalise, rows_of_audio
from pipeline.manifest.uniqueness import drop_repeated, make_unique, pack, unpack
from pipeline.storage.redaction import redact
from pipeline.storage.store import filesystem_for


@dataclass(frozen=True, slots=True)
class Manifest:
    """The recordings to label, compressed: about 20 bytes per row instead of 200."""

    n_rows: int
    n_duplicates: int  # rows left out because they repeated an earlier row exactly
    source: str
    packed: Sequence[pa.Buffer]
    notes: Sequence[str] = ()  # what was left out, and why: for the user to read

    def batches(self) -> Iterator[pa.Table]:
        """The rows in order, with the schema MANIFEST, some at a time."""
        for buffer in self.packed:
            yield unpack(buffer).select(MANIFEST.names)

    @property
    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables([MANIFEST.empty_table(), *self.batches()])


def read_manifest(
    uri: str,
    options: Mapping[str, Any],
    allowed_roots: Sequence[str] = (),
    *,
    allow_http: bool = False,
    manifest_format: ManifestFormat = "auto",
    index: MemberIndex | None = None,
) -> Manifest:
    """Every row of the manifest, in order; ids are unique and never empty.

    A row that cannot be used stays in its position, with `error_stage` "manifest" and a message
    that names the row. Relative paths start at the directory of the manifest. Rows may name objects
    under `allowed_roots` (URI prefixes; if empty, the bucket or directory of the manifest). The
    default id of a row is its canonical URI, with "#t=from,to" (W3C media fragments) if the row has
    a range. `index` lists archives, those that are the manifest and those whose members its rows
    name; by default each time anew. Raises ManifestError.
    """
    with _refusing(uri):
        fs, path = filesystem_for(uri, options)
        uri, path = _with_scp(fs, uri, path, manifest_format)
        allowed = make_allowed_roots(uri, allowed_roots, allow_http=allow_http)
        found = find_files(fs, path, uri, allowed)
    notes: dict[str, None] = {}  # each once, in order
    index = index or MemberIndex(options)
    read = _listed if found.is_audio else partial(_read_files, wanted=manifest_format, index=index)
    packed, hashes, n_repeated = [], [np.empty(0, np.uint64)], 0
    for piece in read(fs, uri, found.files, allowed, notes):
        with _refusing(uri):
            placed = with_places(piece, index)
        rows, n_dropped, note = drop_repeated(placed)
        packed.append(pack(rows))
        hashes.append(hash_ids(rows["recording_id"]))
        n_repeated += n_dropped
        notes.update(dict.fromkeys([note] if note and not n_repeated > n_dropped else []))
    notes.update(dict.fromkeys(found.left_out.notes(uri)))
    pa.default_memory_pool().release_unused()  # 200 MB after ten million rows
    n_rows = sum(map(len, hashes))
    starts = np.cumsum([*map(len, hashes)])
    n_duplicates = make_unique(packed, np.concatenate(hashes), starts)
    return Manifest(
        n_rows - n_duplicates, n_repeated + n_duplicates, uri, packed, [*map(redact, notes)]
    )


def check_manifest(
    uri: str,
    options: Mapping[str, Any],
    allowed_roots: Sequence[str] = (),
    *,
    allow_http: bool = False,
    manifest_format: ManifestFormat = "auto",
) -> None:
    """Read the beginning of a manifest, and refuse it if that cannot be read. Raises ManifestError.

    Takes a moment, so that a run can refuse a mistyped manifest before it fetches a model.
    """
    with _refusing(uri):
        fs, path = filesystem_for(uri, options)
        uri, path = _with_scp(fs, uri, path, manifest_format)
        allowed = make_allowed_roots(uri, allowed_roots, allow_http=allow_http)
        found = find_files(fs, path, uri, allowed)
        if not found.is_audio and which_are_archives([next(found.files).uri], options)[0]:
            return  # the plan lists what is inside; that reads all headers
        found = find_files(fs, path, uri, allowed)
        index = MemberIndex(options)
        read = (
            _listed if found.is_audio else partial(_read_files, wanted=manifest_format, index=index)
        )
        with closing(read(fs, uri, found.files, allowed, {})) as pieces:
            next(pieces, None)


def _with_scp(fs: Any, uri: str, path: str, wanted: ManifestFormat) -> tuple[str, str]:
    """A Kaldi data directory means its wav.scp, whatever else lies there."""
    if wanted not in ("auto", "kaldi") or not fs.isfile(f"{path.rstrip('/')}/{kaldi.SCP}"):
        return uri, path
    return f"{uri.rstrip('/')}/{kaldi.SCP}", f"{path.rstrip('/')}/{kaldi.SCP}"


@contextmanager
def _refusing(uri: str) -> Iterator[None]:
    """Every exception as a ManifestError: an unknown scheme, no permission, no answer."""
    try:
        yield
    except ManifestError as error:
        raise ManifestError(redact(str(error))) from error
    except Exception as error:
        reason = redact(f"{uri}: cannot be read: {type(error).__name__}: {error}")
        raise ManifestError(reason) from error


def _listed(
    fs: Any,
    uri: str,
    files: Iterable[File],
    allowed: AllowedRoots,
    notes: dict[str, None],
) -> Generator[pa.Table]:
    """Rows for the files of a listing, which are found while they are read."""
    with _refusing(uri):
        yield from rows_of_audio(files, allowed)


def _read_files(
    fs: Any,
    uri: str,
    files: Iterable[File],
    allowed: AllowedRoots,
    notes: dict[str, None],
    wanted: ManifestFormat = "auto",
    *,
    index: MemberIndex,
) -> Generator[pa.Table]:
    listed = [_named(file) for file in files]
    are = which_are_archives([file.uri for file in listed], index.options)
    for are_archives, pairs in groupby(zip(listed, are, strict=True), key=itemgetter(1)):
        some = [file for file, _ in pairs]
        if are_archives:
            with _refusing(uri):
                uris = [file.uri for file in some]
                yield from read_archives(fs, uris, index, allowed, notes)
        else:
            yield from _read_tables(fs, some, allowed, notes, wanted)


def _named(file: File) -> File:
    if file.raw:
        raise ManifestError(redact(f"{file.uri}: the name is not UTF-8; rename the file"))
    return file


def _read_tables(
    fs: Any,
    files: Iterable[File],
    allowed: AllowedRoots,
    notes: dict[str, None],
    wanted: ManifestFormat,
) -> Generator[pa.Table]:
    for file in files:
        try:
            for raw in read_raw(fs, file.uri, wanted):
                notes.update(dict.fromkeys(f"{file.uri}: {note}" for note in raw.notes))
                yield from normalise(raw, file.uri, allowed)
        except ManifestError as error:
            raise ManifestError(redact(str(error))) from error
