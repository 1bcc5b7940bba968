"""Find a secret in files and texts, also where it is encoded or compressed."""

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

# The signs that encodings change are in the middle: both halves are searched for as well.
SECRET = "zQ7xK+SEC/RETk9vW"
IN_URI = quote(SECRET, safe="")


def traces(text: bytes) -> list[str]:
    """The forms in which the secret stands in these bytes."""
    return [name for name, form in _forms() if form in text]


def files_with_secret(folder: Path) -> list[str]:
    """The files below a folder that hold the secret or have it in their name, and its form."""
    found = [
        f"{path.relative_to(folder)}: {name}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for content in _contents(path)
        for name in traces(content)
    ]
    return found + [str(path) for path in folder.rglob("*") if traces(str(path).encode())]


def _forms() -> Iterator[tuple[str, bytes]]:
    yield "plain", SECRET.encode()
    yield "percent-encoded", IN_URI.encode()
    yield "a part", b"zQ7xK"
    yield "a part", b"RETk9vW"
    for shift, unsure in enumerate((0, 2, 3)):  # letters that depend on the bytes before it
        encoded = base64.b64encode(b"?" * shift + SECRET.encode()).rstrip(b"=")
        yield "base64", encoded[unsure:-1]
        yield "base64", base64.urlsafe_b64encode(base64.b64decode(encoded + b"=" * 3))[unsure:-4]
    yield "hex", SECRET.encode().hex().encode()


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, then what they hold when they are unpacked."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield pa.CompressedInputStream(pa.py_buffer(data), "zstd").read()
    elif data[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(data))
        yield repr((table.schema.metadata, table.to_pylist())).encode()
