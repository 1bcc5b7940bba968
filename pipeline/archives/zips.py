"""The members of a zip, from its directory, and their bytes.

A zip says the size and the checksum of every member; no more than that is unpacked.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial

from pipeline.archives.members import Listing, MemberList
from pipeline.archives.opened import (
    WHOLE,
    Opened,
    Place,
    changed,
    damaged,
    empty,
    in_memory,
    spooled,
    too_large,
)
from pipeline.archives.streams import OpenArchive
from pipeline.errors import RecordingError, one_line
from pipeline.storage.store_errors import explain_store_error

_ENCRYPTED = 1
_HEADER = 30  # bytes before the name of a member: so a start is never 0
DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError)


def version_of(info: zipfile.ZipInfo) -> str:
    """The version of a member: its CRC-32 and size."""
    return f"crc32-{info.CRC:08x}-{info.file_size}"


def start_of(info: zipfile.ZipInfo) -> int:
    """Where a member begins; two members with one name have two starts."""
    return info.header_offset + _HEADER


def list_zip(archive: OpenArchive) -> Listing:
    """The recordings in a zip. Raises what the store raises; damage is told in the listing."""
    members = MemberList()
    try:
        with zipfile.ZipFile(archive.file) as file:
            for info in sorted(file.infolist(), key=start_of):
                if info.is_dir():
                    continue
                members.add_file(
                    info.filename,
                    start_of(info),
                    info.file_size,
                    partial(file.read, info),
                    version=version_of(info),
                    error="is encrypted" if info.flag_bits & _ENCRYPTED else "",
                )
    except DAMAGE as error:
        if not archive.is_damage(error):
            raise
        return members.listing("zip", one_line(error))
    return members.listing("zip")


# ---------------------------------------------------------------------- reading


def read_zip(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    with zipfile.ZipFile(archive.file) as file:
        infos = {start_of(info): info for info in file.infolist()}
        for place in places:
            yield _of_zip(file, infos.get(place.start), place, max_bytes)


def _of_zip(
    file: zipfile.ZipFile, info: zipfile.ZipInfo | None, place: Place, max_bytes: int
) -> Opened | RecordingError:
    if info is None or info.file_size != place.size:
        return changed("has something else where this recording was")
    if info.file_size > max_bytes:  # what it says; no more than that is unpacked
        return too_large(info.file_size, max_bytes)
    if not info.file_size:
        return empty()
    try:
        with file.open(info) as member:
            if info.file_size > WHOLE:
                return spooled(member, info.file_size, version_of(info))
            return in_memory(member.read(), version_of(info))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        return damaged(error)
    except zlib.error as error:
        return damaged(error)
    except Exception as error:  # a store raises many types
        return explain_store_error(error)
