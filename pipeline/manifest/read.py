"""Lists of recordings, in any common format, to one list of rows. Knows names; opens no audio.

A manifest is parquet, JSON lines or CSV (plain, gzip or zstd; told by its bytes, not its name), one
file or a glob of them, or a directory of audio; manifest_rows lists the columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.manifest.access import AllowedRoots, make_allowed_roots
from pipeline.manifest.files import find_parts, read_raw
from pipeline.manifest.keys import hash_ids
from pipeline.manifest.rows import MANIFEST, listing, normalise
from pipeline.manifest.uniqueness import make_unique, pack, unpack
from pipeline.storage.redaction import redact
from pipeline.storage.store import filesystem_for


@dataclass(frozen=True, slots=True)
class Manifest:
    """The recordings that somebody wants labelled, packed: some 20 bytes a row instead of 200."""

    n_rows: int
    n_duplicates: int  # rows that repeated an earlier one exactly, left out
    source: str
    packed: Sequence[pa.Buffer]

    def batches(self) -> Iterator[pa.Table]:
        """The rows in their order, with the schema MANIFEST, some at a time."""
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
    """Every row of the manifest, in its order; ids are unique and never empty.

    A row that cannot be used keeps its place, with `error_stage` "manifest" and a message that
    names the row. Relative paths start at the manifest's own directory. Rows may name what lies
    under `allowed_roots` (URI prefixes; none: the manifest's own bucket or directory). The default
    id of a row is its canonical URI, with "#t=from,to" (media fragments, W3C) when it names a
    range. Raises ManifestError.
    """
    try:
        fs, path = filesystem_for(uri, options)
        parts, is_listing = find_parts(fs, path, uri)
    except ManifestError as error:
        raise ManifestError(redact(str(error))) from error
    except Exception as error:  # an unknown scheme, no permission, a store that does not answer
        reason = redact(f"{uri}: cannot be read: {type(error).__name__}: {error}")
        raise ManifestError(reason) from error
    reach = make_allowed_roots(uri, allowed_roots, allow_http=allow_http)
    pieces = listing(parts, reach) if is_listing else _read_parts(fs, parts, reach)
    packed, hashes = [], [np.empty(0, np.uint64)]
    for piece in pieces:
        packed.append(pack(piece))
        hashes.append(hash_ids(piece["recording_id"]))
    pa.default_memory_pool().release_unused()  # of ten million rows, 200 MB
    n_rows = sum(map(len, hashes))
    n_duplicates = make_unique(packed, np.concatenate(hashes), np.cumsum([*map(len, hashes)]))
    return Manifest(n_rows - n_duplicates, n_duplicates, uri, packed)


def _read_parts(fs: Any, parts: Sequence[str], reach: AllowedRoots) -> Iterator[pa.Table]:
    for part in parts:
        try:
            for raw in read_raw(fs, part):
                yield from normalise(raw, part, reach)
        except ManifestError as error:
            raise ManifestError(redact(str(error))) from error


# ------------------------------------------------------------------------- uniqueness
