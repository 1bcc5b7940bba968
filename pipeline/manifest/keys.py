"""Names for ten million rows at once: 128 bits each, as (n, 2) uint64. Knows text, not its meaning.

DuckDB hashes Arrow columns where they lie, in C++ and on all cores, and leaves no Python object.
"""

import atexit
import binascii
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrow import Column, pc

Keys = npt.NDArray[np.uint64]  # (n, 2)

_CHUNK = 1 << 15  # rows that one thread of DuckDB takes at a time
_HEX = 32  # digits of 128 bits

# Every part has its length in bytes before it, so that none runs into the next. Seconds count as
# whole microseconds: how a float is spelt is nobody's promise. MD5, because it is the quickest here
# that will be the same in ten years; keys tell versions of one recording apart, and guard nothing.
_WORK_KEY = """
    SELECT md5(concat(
        strlen(recording_id), ':', recording_id, strlen(uri), ':', uri,
        CAST(round(offset_s * 1e6) AS BIGINT), ':', CAST(round(length_s * 1e6) AS BIGINT), ':',
        strlen(language), ':', language, strlen(version), ':', version, $fingerprint
    )) AS key
    FROM rows
"""


def work_keys(rows: pa.Table, fingerprint: str) -> Column:
    """The work key of each row, 32 hex digits: what it is called, where it lies, which bytes.

    `rows` has recording_id, uri, offset_s, length_s, language and version, without nulls.
    """
    return _ask(_WORK_KEY, rows, {"fingerprint": fingerprint})


def hash_ids(texts: Column) -> npt.NDArray[np.uint64]:
    """64 bits of each text, good within this process: equal ones are equal, others nearly never."""
    pairs = _query("SELECT hash(text) AS key FROM rows", pa.table({"text": texts}), {})
    return np.asarray(pairs["key"])


def hash_texts(texts: Column) -> Keys:
    """Two different 64-bit hashes of each text, good within this process and no longer."""
    columns = "hash(text) AS high, hash(concat(text, '#')) AS low"
    pairs = _query(f"SELECT {columns} FROM rows", pa.table({"text": texts}), {})
    return np.stack([pairs["high"].to_numpy(), pairs["low"].to_numpy()], axis=1)


def from_hex(texts: Column) -> Keys:
    """Keys of their 32 hex digits. Raises ValueError if something else is among them."""
    if len(texts) and not pc.all(pc.equal(pc.binary_length(texts), _HEX)).as_py():
        raise ValueError(f"a work key is not {_HEX} hex digits; another program wrote this ledger")
    digits = b"".join(
        memoryview(chunk.buffers()[2])[chunk.offset * _HEX :][: len(chunk) * _HEX]
        for chunk in pa.chunked_array(texts, pa.string()).chunks
        if len(chunk)
    )
    return np.frombuffer(binascii.unhexlify(digits), np.uint64).reshape(-1, 2)


def to_hex(keys: Keys) -> Column:
    """The other way round."""
    offsets = np.arange(len(keys) + 1, dtype=np.int32) * _HEX
    digits = binascii.hexlify(keys.tobytes())
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(digits))


def _ask(query: str, rows: pa.Table, values: dict[str, Any]) -> Column:
    return _query(query, rows, values)["key"].combine_chunks()


def _query(query: str, rows: pa.Table, values: dict[str, Any]) -> pa.Table:
    rows = pa.Table.from_batches(rows.to_batches(max_chunksize=_CHUNK), rows.schema)
    with _database().cursor() as connection:
        connection.register("rows", rows)
        return connection.sql(query, params=values).to_arrow_table()


@cache
def _database() -> Any:
    """One for the process: a new one takes 40 ms, and a plan asks a hundred times."""
    import duckdb  # 60 MB: only where something is planned

    # Left to the interpreter's end, nanobind calls all of DuckDB leaked, on stderr.
    atexit.register(_database.cache_clear)
    return duckdb.connect()
