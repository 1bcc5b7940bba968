"""Rows for the recordings in archives, and the places of members that a manifest names.

What an archive says of a recording (a WebDataset .json or .txt, the other columns of a parquet, the
cuts of a Lhotse shar) becomes columns, with the meaning that formats.MEMBERS gives them.
"""

import gzip
import json
import posixpath
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.archives.embedded import has_audio
from pipeline.archives.endings import ARCHIVE_SUFFIXES
from pipeline.archives.index import MemberIndex
from pipeline.archives.members import MEMBERS as MEMBER_LIST
from pipeline.archives.members import Listing, as_text
from pipeline.archives.streams import open_archive
from pipeline.arrow import pc, replace_columns
from pipeline.errors import ErrorType, ManifestError
from pipeline.manifest import lhotse
from pipeline.manifest.access import AllowedRoots
from pipeline.manifest.formats import MEMBERS, with_prompts
from pipeline.manifest.rows import normalise
from pipeline.manifest.text import RawRows
from pipeline.storage.address import MEMBER, member_uri, split_member

_SHAR = re.compile(r"recording\.(\d+)\.tar(?:\.gz)?$")
_NO_ARCHIVE = "neither a tar, a zip nor a parquet file with audio"
_N_THREADS = 16
_MOST_SHOWN = 10
_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".scp", ".gz", ".zst")
_HEAD = 1 << 16  # bytes of a request that finds out what a file is


def which_are_archives(uris: Sequence[str], options: Mapping[str, Any]) -> list[bool]:
    """Whether each file is an archive: by its name, else its first bytes; parquet by its columns.

    A parquet file that is damaged counts as one among others that are.
    """
    with ThreadPoolExecutor(_N_THREADS) as pool:
        found = list(pool.map(lambda uri: _is_archive(uri, options), uris))
    return [any(found) if one is None else one for one in found]


def _is_archive(uri: str, options: Mapping[str, Any]) -> bool | None:
    name = uri.lower()
    if name.endswith((*ARCHIVE_SUFFIXES, *_TABLES)):
        return name.endswith(ARCHIVE_SUFFIXES)
    try:
        with open_archive(uri, options, _HEAD) as archive:
            if archive is None or archive.kind != "parquet":
                return archive is not None
            return has_audio(archive)
    except Exception:  # of a store or a web server: read_raw meets it again, and tells it
        return False


def read_archives(
    fs: Any,
    uris: Sequence[str],
    index: MemberIndex,
    allowed: AllowedRoots,
    notes: dict[str, None],
) -> Generator[pa.Table]:
    """Tables with the schema rows.NUMBERED, one for each archive. Raises ManifestError."""
    n_rows, skipped, damaged = 0, Counter[str](), list[str]()
    for uri, listing in zip(uris, index.list_all(uris), strict=True):
        if listing is None:
            if len(uris) == 1:
                raise ManifestError(f"{uri}: is {_NO_ARCHIVE}")
            listing = Listing("tar", MEMBER_LIST.empty_table(), damage=f"it is {_NO_ARCHIVE}")
        n_rows += listing.members.num_rows
        skipped.update(listing.skipped)
        damaged += [f"{uri} ({listing.damage})"] if listing.damage else []
        raw = _raw(listing, uri, _cuts_of_shar(fs, uri))
        yield from normalise(raw, uri, allowed)
    notes.update(dict.fromkeys(_notes(uris, n_rows, skipped, damaged)))
    if not n_rows and not damaged:
        found = ", ".join(f"{name} {n:,}" for name, n in skipped.most_common(_MOST_SHOWN))
        raise ManifestError(f"{uris[0]}: an archive without audio; it has {found or 'no files'}")


def _notes(
    uris: Sequence[str], n_rows: int, skipped: Counter[str], damaged: Sequence[str]
) -> Iterator[str]:
    shown = uris[0] if len(uris) == 1 else f"{uris[0]} and {len(uris) - 1:,} more archives"
    yield f"{shown}: {n_rows:,} recordings inside"
    if skipped:
        kinds = ", ".join(f"{name} {n:,}" for name, n in skipped.most_common(_MOST_SHOWN))
        yield f"{shown}: left out {skipped.total():,} files that are no audio: {kinds}"
    if damaged:
        yield f"{len(damaged):,} archives are damaged, for example {damaged[0]}"


def _raw(listing: Listing, uri: str, more: Mapping[str, Mapping[str, str]]) -> RawRows:
    """The listing as rows of a manifest; what cannot be read is broken, as is the rest of it."""
    members = listing.members
    numbers = np.arange(1, members.num_rows + 1)
    errors = members["error"].to_pylist()
    names = members["name"].to_pylist()
    broken = [
        (int(number), f"{name}: {error}")
        for number, name, error in zip(numbers, names, errors, strict=True)
        if error
    ]
    if listing.damage:
        broken.append(
            (
                members.num_rows + 1,
                f"the archive is damaged after {members.num_rows:,} recordings, the rest is not "
                f"read: {listing.damage}; replace it",
            )
        )
    good = np.flatnonzero([not error for error in errors])
    members = members.take(good)
    return RawRows(
        _columns(listing.kind, members, uri, more),
        numbers[good],
        broken,
        starts=members["start"].to_numpy(),
    )


def _columns(
    kind: str, members: pa.Table, uri: str, more: Mapping[str, Mapping[str, str]]
) -> pa.Table:
    names = members["name"].to_pylist()
    elsewhere = members["elsewhere"].to_pylist()
    audio = [
        path or member_uri(kind, name, uri) for path, name in zip(elsewhere, names, strict=True)
    ]
    fields = members["fields"].to_pylist(maps_as_pydicts="strict")
    if more:
        fields = [
            {**known, **more.get(posixpath.splitext(name)[0], {})}
            for known, name in zip(fields, names, strict=True)
        ]
    given = list(dict.fromkeys(name for known in fields for name in known))
    ours = MEMBERS.names(given)
    columns = {ours[name]: pa.array([one.get(name) for one in fields]) for name in given}
    table = pa.table({"audio": pa.array(audio, pa.string()), **columns})
    table = table.append_column("audio_bytes", members["bytes"])
    is_inside = pc.equal(members["elsewhere"], "")
    version = pc.if_else(is_inside, members["version"], "")
    return with_prompts(MEMBERS.name, table.append_column("audio_version", version))


def _cuts_of_shar(fs: Any, uri: str) -> Mapping[str, Mapping[str, str]]:
    """What the cuts beside recording.000000.tar say, by id; nothing if there are none.

    https://lhotse.readthedocs.io/en/latest/api.html#lhotse.shar
    """
    match = _SHAR.search(posixpath.basename(uri))
    path = f"{posixpath.dirname(fs._strip_protocol(uri))}/cuts.{match[1]}.jsonl.gz" if match else ""
    if not path or not fs.exists(path):
        return {}
    found = {}
    try:
        for line in gzip.decompress(fs.cat_file(path)).splitlines():
            row = lhotse.of_shar(json.loads(line))
            texts = {name: as_text(value) for name, value in row.items() if name != "id"}
            found[str(row["id"])] = {name: one for name, one in texts.items() if one is not None}
    except (ValueError, KeyError, EOFError, gzip.BadGzipFile) as error:
        raise ManifestError(f"{path}: the cuts of a shar cannot be read: {error}") from error
    return found


# --------------------------------------------------- members that another manifest names


def with_places(rows: pa.Table, index: MemberIndex) -> pa.Table:
    """The rows (rows.NUMBERED), with the place, size and version of members that have none.

    A member that its archive does not have is an error row.
    """
    is_named = pc.match_substring_regex(rows["uri"], MEMBER)
    is_open = pc.and_(pc.equal(rows["error_stage"], ""), pc.equal(rows["start"], 0))
    places = np.flatnonzero(pc.and_(is_named, is_open).to_numpy())
    if not places.size:
        return rows
    members = [split_member(uri) for uri in rows["uri"].take(places).to_pylist()]
    archives = list(dict.fromkeys(one.archive for one in members if one))
    found = {
        archive: _Names(listing)
        for archive, listing in zip(archives, index.list_all(archives), strict=True)
    }
    columns = {name: rows[name].to_pylist() for name in _CHANGED}
    for place, member in zip(places.tolist(), members, strict=True):
        if member:
            for name, value in found[member.archive].facts(member.name).items():
                columns[name][place] = value
    fields = {name: pa.array(columns[name], rows.schema.field(name).type) for name in _CHANGED}
    return replace_columns(rows, **fields)


_CHANGED = ("start", "bytes", "version", "error_stage", "error_type", "error_message")


class _Names:
    """The members of one archive by name."""

    def __init__(self, listing: Listing | None) -> None:
        columns = ["name", "start", "bytes", "version", "error"]
        rows = listing.members.select(columns).to_pylist() if listing else []
        self._rows = {row["name"]: row for row in rows}
        self._damage = listing.damage if listing else "it is no archive"

    def facts(self, name: str) -> dict[str, Any]:
        """Values of _CHANGED for a member."""
        row = self._rows.get(name)
        if row and not row["error"]:
            return {key: row[key] for key in ("start", "bytes", "version")}
        why = f"; it is damaged: {self._damage}" if self._damage else ""
        text = row["error"] if row else f"the archive has no member {name!r}{why}"
        kind = ErrorType.UNDECODABLE if row else ErrorType.FILE_MISSING
        return {"error_stage": "manifest", "error_type": kind.value, "error_message": text}
