"""The bytes of members, an archive from its front to its back in few large requests.

Never unpacked to disk, with one exception: a member of more than 32 MB of a zip or of a compressed
tar passes through a temporary file, because decoders go back and memory is limited.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.archives.embedded import read_parquet
from pipeline.archives.opened import REQUEST_BYTES, Opened, Place, changed
from pipeline.archives.streams import is_plain_tar, open_archive
from pipeline.archives.tar import read_stream_of_tar, read_tar
from pipeline.archives.zips import read_zip
from pipeline.errors import RecordingError
from pipeline.storage.store_errors import explain_store_error


def read_members(
    uri: str, places: Sequence[Place], options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """The members at these places of the archive at `uri`, in their order; one item for each.

    A member that cannot be read is its RecordingError, and the next one is tried. `places` are in
    the order of their starts: a compressed tar is read forward only.
    """
    left = list(places)
    try:
        for item in _read(uri, places, options, max_bytes):
            left = left[1:]
            yield item
    except Exception as error:
        reason = explain_store_error(error)
        yield from (reason for _ in left)


def _read(
    uri: str, places: Sequence[Place], options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    if is_plain_tar(uri, options):
        yield from read_tar(uri, options, places, max_bytes)
        return
    with open_archive(uri, options, REQUEST_BYTES) as archive:
        if archive is None:
            gone = changed("is no archive any more")
            yield from (gone for _ in places)
        elif archive.kind == "zip":
            yield from read_zip(archive, places, max_bytes)
        elif archive.kind == "parquet":
            yield from read_parquet(archive, places, max_bytes)
        else:
            yield from read_stream_of_tar(archive, places, max_bytes)


@contextmanager
def open_member(
    uri: str, place: Place, options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened]:
    """One member of the archive at `uri`. Raises RecordingError."""
    for item in read_members(uri, [place], options, max_bytes):
        if isinstance(item, RecordingError):
            raise item
        with item.closing, item.file:
            yield item
