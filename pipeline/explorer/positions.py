"""Check that the rows of three tables stand side by side, so that they can be joined by position.

The publisher writes transcripts, languages and emotions of a part with the same segments in the
same order, and `verify` checks it. A join by position would mix labels if that were not so, hence
the check before each: it takes 0.2 s for 3 million segments.
"""

from typing import TYPE_CHECKING

from pipeline.errors import StoreError
from pipeline.tables import Snapshot

if TYPE_CHECKING:
    import duckdb

_TABLES = ("transcripts", "languages", "emotions")
_MISPLACED = """
    SELECT any_value(t.segment_id)
    FROM {prefix}transcripts t
    POSITIONAL JOIN {prefix}languages l POSITIONAL JOIN {prefix}emotions e
    WHERE t.segment_id IS DISTINCT FROM l.segment_id OR t.segment_id IS DISTINCT FROM e.segment_id
"""


def check_positions(
    connection: "duckdb.DuckDBPyConnection", snapshot: Snapshot, prefix: str = ""
) -> None:
    """Raise StoreError unless the tables `prefix` + name have the same segments, row by row."""
    state, fingerprint = snapshot.state, snapshot.fingerprint
    n_rows = {sum(file.rows for file in state.table(name, fingerprint)) for name in _TABLES}
    ((misplaced,),) = connection.execute(_MISPLACED.format(prefix=prefix)).fetchall()
    if len(n_rows) != 1 or misplaced is not None:
        raise StoreError(
            f"{snapshot.store.root}: transcripts, languages and emotions do not hold the same "
            f"segments in the same order (from {misplaced!r}); run `jobs verify` on it"
        )
