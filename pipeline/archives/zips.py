"""The members of a zip, from its directory. A zip says the checksum of every member."""

import zipfile
from functools import partial

from pipeline.archives.members import Listing, MemberList
from pipeline.archives.streams import OpenArchive
from pipeline.errors import one_line

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
