"""What the bytes of a file say about its length. Knows containers; decodes nothing."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.audio.sources import Source, detect_format

MP3_SLACK = 256  # bytes; an ID3v1 tag of 128 bytes may follow the audio that the header counts

Order = Literal["little", "big"]  # of the bytes of a number

_OPEN_SIZES = {0, 36, 0xFFFF_FFFF}  # RIFF sizes of a writer that never came back to fill them in
_STREAMED = 0x7FFF_0000  # a data size from here on was written by a program that did not know it
_RIFF: dict[bytes, Order] = {b"RIFF": "little", b"RIFX": "big"}
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_AFTER_ID3 = {"RIFF", "RIFX", "FLAC", "AIFF", "AAC"}  # some taggers put ID3v2 before anything
_FLAC_TAIL = 1 << 16  # bytes; a FLAC frame of 4,608 samples in stereo at 24 bit is 28 kB at most


def skip_id3(source: Source, start: int = 0) -> int:
    """The first byte behind ID3v2 tags at `start`."""
    while (head := source.head(10, start)).startswith(b"ID3") and len(head) == 10:
        # The size has 7 bits per byte and excludes these 10 bytes.
        start += 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:10])))
    return start


def format_of(source: Source) -> tuple[str, bool | None]:
    """The format by the first bytes (see sources.detect_format), which a tag may precede."""
    name, is_audio = detect_format(source.head(512))
    if name == "MP3" and (start := skip_id3(source)):
        behind, may_be = detect_format(source.head(512, start))
        if behind in _AFTER_ID3:
            return behind, may_be
    return name, is_audio


def mp3_surplus(source: Source) -> float:
    """Bytes in an mp3 file beyond the size in its Xing or Info header; infinite without a header.

    Layout: tag, flags, frames if flags & 1, bytes if flags & 2
    (http://gabriel.mp3-tech.org/mp3infotag.html).
    """
    start = skip_id3(source)
    frame = source.head(256, start)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or frame[at + 7] & 3 != 3:
        return math.inf
    return source.size - start - int.from_bytes(frame[at + 12 : at + 16], "big")


def has_ogg_end(source: Source) -> bool:
    """Whether the last page (of up to 64 KiB) is intact and has the end mark.

    RFC 3533, section 6: flags in byte 5 (4: end of stream), CRC in bytes 22 to 25, the number of
    segments in byte 26 and their lengths behind it.
    """
    tail = source.head(1 << 17, max(0, source.size - (1 << 17)))
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])
    crc = int.from_bytes(page[22:26], "little")
    return bool(page[5] & 4) and _ogg_crc(page[:22] + bytes(4) + page[26:size]) == crc


def _ogg_crc(data: bytes) -> int:
    """CRC-32 with the polynomial of zlib, from the first bit on and without its inversion."""
    mirrored = zlib.crc32(data.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@dataclass(frozen=True, slots=True)
class WavPart:
    """One WAV in a file, which may hold several of them, one behind the other."""

    start: int  # of its RIFF header
    end: int  # behind its last sample
    data_start: int
    bytes_per_s: int
    declared_bytes: int  # of samples, as the header says; 0: the header does not know
    is_stale: bool  # the header's size is not that of the samples in the file
    order: Order

    @property
    def declared_s(self) -> float:
        return self.declared_bytes / self.bytes_per_s if self.bytes_per_s else 0.0

    def patches(self) -> dict[int, bytes]:
        """The size fields as they should be, by their place in the file."""
        sizes = {
            self.start + 4: self.end - self.start - 8,
            self.data_start - 4: self.end - self.data_start,
        }
        return {at: _bytes_of(min(size, 0xFFFF_FFFF), self.order) for at, size in sizes.items()}


def wav_parts(source: Source) -> list[WavPart]:
    """Every WAV of a file; [] if it has no chunk of samples that can be read so (RF64, broken)."""
    parts: list[WavPart] = []
    start = skip_id3(source)
    while part := _wav_part(source, start):
        parts.append(part)
        start = part.end + part.end % 2
        if start >= source.size or source.head(4, start) not in _RIFF:
            break
    return parts


def _wav_part(source: Source, start: int) -> WavPart | None:
    head = source.head(12, start)
    order = _RIFF.get(head[:4])
    if order is None or head[8:12] != b"WAVE":
        return None
    riff_size = _number(head[4:8], order)
    bytes_per_s = 0
    for name, at, size in _chunks(source, start + 12, order):
        if name == b"fmt ":
            bytes_per_s = _number(source.head(4, at + 8), order)
        if name == b"data":
            return _data_part(source, start, at, size, bytes_per_s, riff_size, order)
    return None


def _data_part(
    source: Source, start: int, at: int, size: int, bytes_per_s: int, riff_size: int, order: Order
) -> WavPart:
    """The samples reach to the end of the file unless a chunk or another WAV follows them.

    A header that was never finished says 0 or the largest number; one that is stale says less than
    there is, and what follows is no chunk. A finished header that says 0 with chunks behind it
    means what it says.
    """
    rest = source.size - at
    is_open = size >= _STREAMED or (size == 0 and riff_size in _OPEN_SIZES)
    behind = at + size + size % 2
    ends_well = behind >= source.size or _is_chunk(source, behind, order)
    is_stale = is_open or (size < rest and not ends_well)
    end = source.size if is_stale else min(at + size, source.size)
    declared = 0 if is_open else max(size, end - at)
    return WavPart(start, end, at, bytes_per_s, declared, is_stale, order)


def _is_chunk(source: Source, at: int, order: Order) -> bool:
    """Whether a RIFF chunk, another WAV or a tag of a few bytes lies there."""
    head = source.head(8, at)
    if len(head) < 8 or source.size - at <= 128:
        return True  # ID3v1, padding
    if head[:4] in _RIFF or head[:3] in (b"TAG", b"ID3") or not head.strip(b"\0"):
        return True
    is_name = all(32 <= byte < 127 for byte in head[:4])
    return is_name and _number(head[4:8], order) <= source.size - at - 8


def _chunks(source: Source, at: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte of its content, size) of the chunks from `at` on."""
    while len(head := source.head(8, at)) == 8:
        size = _number(head[4:8], order)
        yield head[:4], at + 8, size
        at += 8 + size + size % 2


def _number(data: bytes, order: Order) -> int:
    return int.from_bytes(data, order)


def _bytes_of(value: int, order: Order) -> bytes:
    return value.to_bytes(4, order)


def is_flac_consistent(source: Source) -> bool:
    """Whether a FLAC file holds as many samples as it declares, as far as its ends show.

    The last frame header (16 bytes at most, with a CRC-8) carries the number of its frame or
    sample: https://www.rfc-editor.org/rfc/rfc9639 (section 9.1). A second `fLaC` is another file.
    """
    head = source.head(42)
    if head[:4] != b"fLaC" or len(head) < 42:
        return False
    largest_block = int.from_bytes(head[10:12], "big")
    total = int.from_bytes(head[18:26], "big") & 0xF_FFFF_FFFF
    if not total:
        return False  # written to a pipe: unknown, on which libsndfile ends with an error
    tail = source.head(_FLAC_TAIL, max(0, source.size - _FLAC_TAIL))
    last = _last_flac_sample(tail, largest_block)
    return last is not None and last < total <= last + largest_block


def _last_flac_sample(tail: bytes, largest_block: int) -> int | None:
    """The first sample of the last frame in these bytes; None if there is none."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (found := _coded(tail[at : at + 16])):
            number, size = found
            if _crc8(tail[at : at + size]) == tail[at + size]:
                return number if tail[at + 1] & 1 else number * largest_block
    return None


def _coded(header: bytes) -> tuple[int, int] | None:
    """(frame or sample number, bytes before the CRC) of a FLAC frame header; None if it is none."""
    if len(header) < 6:
        return None
    first = header[4]
    n_more = 0 if first < 0x80 else max(0, f"{first:08b}".find("0") - 1)
    if n_more > 6 or 0x80 <= first < 0xC0 or len(header) < 6 + n_more:
        return None
    number = first if first < 0x80 else first & (0x3F >> n_more)
    for byte in header[5 : 5 + n_more]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    block, rate = header[2] >> 4, header[2] & 15
    size = 5 + n_more + {6: 1, 7: 2}.get(block, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    return (number, size) if size < len(header) and block and rate != 15 else None


def _crc8(data: bytes) -> int:
    """CRC-8 of RFC 9639: polynomial x^8 + x^2 + x + 1, no reflection, start 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
