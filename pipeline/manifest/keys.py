"""Vectorised 128-bit hashes of Arrow string columns, as (n, 2) uint64. Knows no column's meaning.

DuckDB hashes the Arrow columns without a copy, in C++, on all cores, and without Python objects.
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

# Each text is preceded by its length in bytes, so two different rows never give the same text.
# Seconds are counted in whole microseconds, because programs may write the same float differently.
# MD5 is the fastest hash here that will not change in future versions. It need not be secure: keys
# only distinguish the versions of a recording.
_WORK_KEY = """
    SELECT md5(concat(
        strlen(recording_id), ':', recording_id, strlen(uri), ':', uri,
        CAST(round(offset_s * 1e6) AS BIGINT), ':', CAST(round(length_s * 1e6) AS BIGINT), ':',
        strlen(language), ':', language, strlen(version), ':', version,
        CASE WHEN channel > 0 THEN concat(channel, '#') ELSE '' END, $fingerprint
    )) AS key
    FROM rows
"""


def work_keys(rows: pa.Table, fingerprint: str) -> Column:
    """The work key of each row, 32 hex digits.

    `rows` has recording_id, uri, offset_s, length_s, channel, language and version, without nulls.
    The key changes if one of these or the fingerprint changes.
    """
    return _column(_WORK_KEY, rows, {"fingerprint": fingerprint})


def ledger_states(work_keys: Column, attempts: Column) -> Column:
    """The state of each ledger row: f"{work_key}:{attempts}". New work names it in `supersedes`."""
    return pc.binary_join_element_wise(work_keys, attempts.cast(pa.string()), ":")


def hash_ids(texts: Column) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each text, for use in this process only; different texts rarely collide."""
    pairs = _query("SELECT hash(text) AS key FROM rows", pa.table({"text": texts}), {})
    return np.asarray(pairs["key"])


def hash_texts(texts: Column) -> Keys:
    """Two different 64-bit hashes of each text, for use in this process only."""
    columns = "hash(text) AS high, hash(concat(text, '#')) AS low"
    pairs = _query(f"SELECT {columns} FROM rows", pa.table({"text": texts}), {})
    return np.stack([pairs["high"].to_numpy(), pairs["low"].to_numpy()], axis=1)


def from_hex(texts: Column) -> Keys:
    """Keys from their 32 hex digits. Raises ValueError if a text has another length."""
    if len(texts) and not pc.all(pc.equal(pc.binary_length(texts), _HEX)).as_py():
        raise ValueError(
            f"a work key in the ledger does not have {_HEX} hex digits; it was not written by this "
            "program"
        )
    digits = b"".join(
        memoryview(chunk.buffers()[2])[chunk.offset * _HEX :][: len(chunk) * _HEX]
        for chunk in pa.chunked_array(texts, pa.string()).chunks
        if len(chunk)
    )
    return np.frombuffer(binascii.unhexlify(digits), np.uint64).reshape(-1, 2)


def to_hex(keys: Keys) -> Column:
    """The 32 hex digits of each key; the inverse of from_hex."""
    offsets = np.arange(len(keys) + 1, dtype=np.int32) * _HEX
    digits = binascii.hexlify(keys.tobytes())
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(digits))


def _column(query: str, rows: pa.Table, values: dict[str, Any]) -> Column:
    return _query(query, rows, values)["key"].combine_chunks()


def _query(query: str, rows: pa.Table, values: dict[str, Any]) -> pa.Table:
    rows = pa.Table.from_batches(rows.to_batches(max_chunksize=_CHUNK), rows.schema)
    with _database().cursor() as connection:
        connection.register("rows", rows)
        return connection.sql(query, params=values).to_arrow_table()


@cache
def _database() -> Any:
    """One database per process: opening one takes 40 ms, and a plan makes a hundred queries."""
    import duckdb  # 60 MB of memory: imported only when needed

    # Without this, nanobind prints on stderr at exit that all of DuckDB leaked.
    atexit.register(_database.cache_clear)
    return duckdb.connect()
