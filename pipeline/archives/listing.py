"""List an archive of any kind, and find one member by its address."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pipeline.archives.embedded import list_parquet
from pipeline.archives.members import Listing
from pipeline.archives.opened import Opened, Place
from pipeline.archives.read import open_member
from pipeline.archives.streams import open_archive
from pipeline.archives.tar import list_tar
from pipeline.archives.zips import list_zip
from pipeline.arrow import pc
from pipeline.errors import ErrorType, RecordingError
from pipeline.storage.address import Member
from pipeline.storage.store_errors import explain_store_error
from pipeline.storage.versions import look_up_version

_LIST_BYTES = 1 << 20  # of a request: headers and texts; what is far between them is not read

_LISTERS = {"tar": list_tar, "zip": list_zip, "parquet": list_parquet}


def list_archive(uri: str, options: Mapping[str, Any]) -> Listing | None:
    """The recordings in the archive at `uri`; None if it is no archive.

    Raises what the store raises. Of a damaged archive it has what could be read, and the reason.
    """
    with open_archive(uri, options, _LIST_BYTES) as archive:
        return _LISTERS[archive.kind](archive) if archive else None


@contextmanager
def open_by_name(
    member: Member, place: Place | None, options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened]:
    """One member. Without its place its archive is listed, once while it does not change.

    Raises RecordingError.
    """
    place = place or _find(member, options)
    with open_member(member.archive, place, options, max_bytes) as opened:
        yield opened


def _find(member: Member, options: Mapping[str, Any]) -> Place:
    try:
        version, _ = look_up_version(member.archive, options)
        listing = _listed(member.archive, version, json.dumps(dict(options), sort_keys=True))
    except RecordingError:
        raise
    except Exception as error:
        raise explain_store_error(error) from error
    return find_place(listing, member.name)


def find_place(listing: Listing | None, name: str) -> Place:
    """Where the member of this quoted name is. Raises RecordingError."""
    if listing is None:
        raise RecordingError(ErrorType.NOT_AUDIO, "it is neither tar, zip nor parquet with audio")
    members = listing.members
    index = pc.index(members["name"], name).as_py()
    if index < 0:
        raise RecordingError(ErrorType.FILE_MISSING, f"its archive has no {name!r}")
    if error := members["error"][index].as_py():
        raise RecordingError(ErrorType.UNDECODABLE, error)
    return Place(name, members["start"][index].as_py(), members["bytes"][index].as_py())


@lru_cache(maxsize=8)
def _listed(uri: str, version: str, options: str) -> Listing | None:
    return list_archive(uri, json.loads(options))
