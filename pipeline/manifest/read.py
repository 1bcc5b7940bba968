"""Read a manifest in any common format into one list of rows. Opens no audio.

A manifest is a file in parquet, JSON lines or CSV format (plain, gzip or zstd; detected from its
bytes, not its name), a glob of such files, or a directory of audio. See rows.py for the columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.manifest.access import AllowedRoots, make_allowed_roots
from pipeline.manifest.files import find_files, read_raw
from pipeline.manifest.keys import hash_ids
from pipeline.manifest.rows import MANIFEST, normalise, rows_of_audio
from pipeline.manifest.uniqueness import make_unique, pack, unpack
from pipeline.storage.redaction import redact
from pipeline.storage.store import filesystem_for


@dataclass(frozen=True, slots=True)
class Manifest:
    """The recordings to label, compressed: about 20 bytes per row instead of 200."""

    n_rows: int
    n_duplicates: int  # rows left out because they repeated an earlier row exactly
    source: str
    packed: Sequence[pa.Buffer]

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
) -> Manifest:
    """Every row of the manifest, in order; ids are unique and never empty.

    A row that cannot be used stays in its position, with `error_stage` "manifest" and a message
    that names the row. Relative paths start at the directory of the manifest. Rows may name objects
    under `allowed_roots` (URI prefixes; if empty, the bucket or directory of the manifest). The
    default id of a row is its canonical URI, with "#t=from,to" (W3C media fragments) if the row has
    a range. Raises ManifestError.
    """
    try:
        fs, path = filesystem_for(uri, options)
        files, is_audio = find_files(fs, path, uri)
    except ManifestError as error:
        raise ManifestError(redact(str(error))) from error
    except Exception as error:  # an unknown scheme, no permission, a store that does not answer
        reason = redact(f"{uri}: cannot be read: {type(error).__name__}: {error}")
        raise ManifestError(reason) from error
    allowed = make_allowed_roots(uri, allowed_roots, allow_http=allow_http)
    pieces = rows_of_audio(files, allowed) if is_audio else _read_files(fs, files, allowed)
    packed, hashes = [], [np.empty(0, np.uint64)]
    for piece in pieces:
        packed.append(pack(piece))
        hashes.append(hash_ids(piece["recording_id"]))
    pa.default_memory_pool().release_unused()  # 200 MB after ten million rows
    n_rows = sum(map(len, hashes))
    n_duplicates = make_unique(packed, np.concatenate(hashes), np.cumsum([*map(len, hashes)]))
    return Manifest(n_rows - n_duplicates, n_duplicates, uri, packed)


def _read_files(fs: Any, files: Sequence[str], allowed: AllowedRoots) -> Iterator[pa.Table]:
    for file in files:
        try:
            for raw in read_raw(fs, file):
                yield from normalise(raw, file, allowed)
        except ManifestError as error:
            raise ManifestError(redact(str(error))) from error
