"""The members of many archives, listed once while the archives do not change.

Beside the output lies, for each archive and its version, what is in it (_members/). While the
version is the same, nothing of the archive is read. When it has changed, it is listed again, and
the bytes of its members are compared with those that were labelled: a member that is the same keeps
the version that it had, so that it is not labelled again. Without a place to keep them (`store` is
None), archives are listed each time, and a changed archive counts as wholly changed.

The version of a member of a zip is its checksum, which the zip says. That of another member is the
version of the archive in which its bytes were first seen.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from pipeline.archives.listing import list_archive
from pipeline.archives.members import MEMBERS, Listing
from pipeline.archives.opened import Place
from pipeline.archives.read import read_members
from pipeline.arrow import replace_columns
from pipeline.errors import RecordingError
from pipeline.storage.address import member_uri
from pipeline.storage.read_ahead import map_ahead
from pipeline.storage.redaction import identity_uri, public_uri
from pipeline.storage.store import Store
from pipeline.storage.versions import look_up_versions

FOLDER = "_members/"
# Address of a member -> versions of the bytes that were read of it.
Versions = Mapping[str, AbstractSet[str]]

_N_THREADS = 16
_KEY = re.compile(r"_members/([0-9a-f]{32})/(\d{6})-([0-9a-f]{32})\.parquet")
_NO_LIMIT = 1 << 62


class MemberIndex:
    """Lists archives. `known` says of labelled members the version of the bytes that were read."""

    def __init__(
        self,
        options: Mapping[str, Any],
        store: Store | None = None,
        known: Callable[[Sequence[str]], Versions] = lambda archives: {},
        *,
        writes: bool = False,
    ) -> None:
        self.options = options
        self._store = store
        self._known = known
        self._writes = writes
        self._kept = _by_archive(store.list(FOLDER)) if store else {}

    def list_all(self, uris: Sequence[str]) -> Iterator[Listing | None]:
        """The listing of each archive, in order; None for what is none.

        Raises what stores raise.
        """
        versions = [version for version, _ in look_up_versions(uris, self.options)]
        changed = [
            uri
            for uri, version in zip(uris, versions, strict=True)
            if (kept := self._kept.get(_hash(identity_uri(uri)))) and _hash(version) not in kept
        ]
        known = self._known(changed) if changed else {}
        with ThreadPoolExecutor(_N_THREADS) as pool:
            pairs = zip(uris, versions, strict=True)
            yield from map_ahead(pool, lambda pair: self._list(*pair, known), pairs, _N_THREADS)

    def _list(self, uri: str, version: str, known: Versions) -> Listing | None:
        folder, name = _hash(identity_uri(uri)), _hash(version)
        kept = self._kept.get(folder, {})
        if version and name in kept and (listing := self._read(kept[name])):
            return listing
        listing = list_archive(uri, self.options)
        if listing is None:
            return None
        before = self._read(list(kept.values())[-1]) if kept else None
        listing = self._with_versions(uri, version, listing, before, known)
        if self._store and self._writes and version:
            key = f"{FOLDER}{folder}/{len(kept):06d}-{name}.parquet"
            self._store.put_if_absent(key, to_bytes(listing))
        return listing

    def _with_versions(
        self,
        uri: str,
        version: str,
        listing: Listing,
        before: Listing | None,
        known: Versions,
    ) -> Listing:
        if listing.kind == "zip":
            return listing
        members = listing.members
        versions, digests = [version] * members.num_rows, [""] * members.num_rows
        if before:
            digests = self._digests(uri, members)
            old = _digests_before(uri, before, known)
            names = members["name"].to_pylist()
            for index, (name, digest) in enumerate(zip(names, digests, strict=True)):
                version_before, digest_before = old.get(name, ("", ""))
                if digest and digest == digest_before:
                    versions[index] = version_before
        members = replace_columns(
            members,
            version=pa.array(versions, pa.string()),
            digest=pa.array(digests, pa.string()),
        )
        return Listing(listing.kind, members, listing.skipped, listing.damage)

    def _digests(self, uri: str, members: pa.Table) -> list[str]:
        """The versions of all members by their bytes; the archive is read once."""
        digests = [""] * members.num_rows
        rows = members.select(["name", "start", "bytes", "error", "elsewhere"]).to_pylist()
        inside = [i for i, row in enumerate(rows) if not (row["error"] or row["elsewhere"])]
        places = [Place(rows[i]["name"], rows[i]["start"], rows[i]["bytes"]) for i in inside]
        read = read_members(uri, places, self.options, _NO_LIMIT)
        for index, item in zip(inside, read, strict=True):
            if not isinstance(item, RecordingError):
                with item.closing, item.file:
                    digests[index] = item.version
        return digests

    def _read(self, key: str) -> Listing | None:
        """A listing that is kept; None if it is gone or damaged, because it can be made again."""
        if self._store is None:
            return None
        try:
            return from_bytes(self._store.get(key))
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None


def _digests_before(uri: str, before: Listing, known: Versions) -> dict[str, tuple[str, str]]:
    """Name -> (version, digest) of the members before; without a digest, as it was labelled.

    Where one member was labelled with two different contents, nothing is certain.
    """
    found = {}
    for row in before.members.select(["name", "version", "digest"]).to_pylist():
        labelled = known.get(member_uri(before.kind, row["name"], public_uri(uri)), set())
        only = next(iter(labelled)) if len(labelled) == 1 else ""
        found[row["name"]] = row["version"], row["digest"] or only
    return found


def to_bytes(listing: Listing) -> bytes:
    """A listing as parquet."""
    import pyarrow.parquet as pq

    about = {"kind": listing.kind, "skipped": dict(listing.skipped), "damage": listing.damage}
    sink = pa.BufferOutputStream()
    table = listing.members.replace_schema_metadata({"about": json.dumps(about)})
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> Listing:
    """The listing that `to_bytes` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    about = json.loads(table.schema.metadata[b"about"])
    members = table.replace_schema_metadata(None).cast(MEMBERS)
    return Listing(about["kind"], members, about["skipped"], about["damage"])


def superseded(keys: Iterable[str]) -> list[str]:
    """The kept listings of archives that have a newer one."""
    return [key for kept in _by_archive(keys).values() for key in list(kept.values())[:-1]]


def _by_archive(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Hash of an archive -> {hash of a version: key}, the oldest first."""
    kept: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        if match := _KEY.fullmatch(key):
            kept.setdefault(match[1], {})[match[3]] = key
    return kept


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
