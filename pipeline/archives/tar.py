"""The members of a tar, from its headers. Reads the texts beside recordings, and no audio.

A writer that was stopped leaves a tar without its end: two blocks of zeros. tarfile takes that, and
a damaged header, for the end; here both are damage.
"""

import tarfile
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.archives.members import Listing, MemberList
from pipeline.archives.streams import HEADER, OpenArchive
from pipeline.errors import one_line

_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, pa.ArrowException)


def list_tar(archive: OpenArchive) -> Listing:
    """The recordings in a tar. Raises what the store raises; damage is told in the listing."""
    members = MemberList()
    file = archive.file

    def read(info: tarfile.TarInfo) -> bytes:
        file.seek(info.offset_data)
        data = file.read(info.size)
        if len(data) < info.size:
            raise tarfile.ReadError(f"{info.name!r} ends after {len(data):,} of its bytes")
        return data

    try:
        for info in _headers(file):
            if info.isreg() and not info.issparse():
                members.add_file(info.name, info.offset_data, info.size, partial(read, info))
            elif not info.isdir():
                members.skip("links and others")
    except _DAMAGE as error:
        if not archive.is_damage(error):
            raise
        return members.listing("tar", one_line(error))
    return members.listing("tar")


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header. Raises tarfile.ReadError where the tar is damaged or has no end."""
    tar: Any
    with tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            after = info.offset_data + (info.size if info.isreg() else 0)
            _check_end(file, after)
            yield info
            tar.members = []  # tarfile keeps every header
        end: int = tar.offset
    file.seek(end)
    block = file.read(HEADER)
    if len(block) < HEADER:
        raise tarfile.ReadError("it ends without the end mark of a tar")
    if any(block):
        raise tarfile.ReadError("there is no header where one should be")


def _check_end(file: BinaryIO, after: int) -> None:
    """Raise tarfile.ReadError if a member ends after the file does."""
    back = file.tell()
    if after > back:
        file.seek(after - 1)
        if not file.read(1):
            raise tarfile.ReadError("it ends within a recording")
