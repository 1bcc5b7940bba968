"""How doubtful a segment's labels are, as one number in 0..1. SQL only; reads no audio.

The entropy of a language, the entropy of an emotion and a confidence are not comparable: of any
two heads, one would fill the whole queue. So each is first turned into its share of the corpus that
is less doubtful (a percentile, to 1/1000 of the measure's range), and a segment is as doubtful as
its worst measure.
"""

import math
from typing import TYPE_CHECKING

from pipeline.schema import EMOTIONS, LANGUAGES

if TYPE_CHECKING:
    import duckdb

_STEPS = 1000

# Each measure in 0..1, larger is more doubtful. A segment without text has no confidence.
_MEASURES = (
    f"language_entropy / {math.log(len(LANGUAGES))}",
    f"emotion_entropy / {math.log(len(EMOTIONS))}",
    "CASE WHEN text = '' THEN 0 ELSE 1 - coalesce(confidence, 1) END",
)


def score_expression(connection: "duckdb.DuckDBPyConnection") -> str:
    """SQL for the score of a row of the view `browse`. Reads three columns of the corpus once."""
    shares = (_share_below(connection, measure) for measure in _MEASURES)
    worst = ", ".join(
        f"({shares_list})[{_bucket(measure)} + 1]"
        for measure, shares_list in zip(_MEASURES, shares, strict=True)
    )
    return f"greatest({worst})"


def _bucket(measure: str) -> str:
    return f"least({_STEPS}, greatest(0, floor({_STEPS} * ({measure}))))::INT"


def _share_below(connection: "duckdb.DuckDBPyConnection", measure: str) -> str:
    """A list literal: for each bucket of the measure, the share of segments in lower ones."""
    counts = dict(
        connection.execute(
            f"SELECT {_bucket(measure)} AS bucket, count(*) FROM browse GROUP BY bucket"
        ).fetchall()
    )
    total = max(1, sum(counts.values()))
    below, shares = 0, []
    for bucket in range(_STEPS + 1):
        shares.append(f"{below / total:.6f}")
        below += counts.get(bucket, 0)
    return f"[{', '.join(shares)}]::DOUBLE[]"
