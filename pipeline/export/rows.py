"""The labelled segments that an export takes, one by one. Knows SQL and names; writes nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.schema import SAMPLE_RATE

if TYPE_CHECKING:
    import duckdb

_FETCH = 10_000  # rows in memory at a time

# A recording_id may be a whole URI. Its name in file names and line formats is the id itself where
# that is plain, else what is plain of its end and a piece of its hash. Names sort as bytes do.
_NAMES = r"""
    CREATE OR REPLACE VIEW exported AS
    SELECT
        c.*, name, name || substr(segment_id, length(recording_id) + 1) AS key,
        left(md5(recording_id), 2) AS shelf,
        recording_end_s, sample_rate_hz, channels,
        coalesce(v.tag, 'unknown') AS event,
        coalesce(v.sounds, []) AS sounds
    FROM chosen c
    JOIN (
        SELECT
            recording_id, sample_rate_hz, channels, offset_s + duration_s AS recording_end_s,
            CASE WHEN regexp_full_match(recording_id, '[\p{L}\p{N}_][\p{L}\p{N}_.-]{0,49}')
                THEN recording_id
                ELSE right(regexp_replace(recording_id, '[^\p{L}\p{N}_]+', '_', 'g'), 50)
                    || '-' || left(md5(recording_id), 10)
            END AS name
        FROM recordings
    ) USING (recording_id)
    LEFT JOIN (
        SELECT
            segment_id, any_value(event) FILTER (source = 'tag') AS tag,
            list({'event': event, 'start_s': start_s, 'end_s': end_s, 'probability': probability}
                ORDER BY start_s, source DESC) AS sounds
        FROM events GROUP BY segment_id
    ) v USING (segment_id)
"""

Order = Literal["recording_id, segment_id", "key"]


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled segment. Times are seconds in the file at `uri`."""

    key: str  # unique; safe as a file name and as a word of a line; segment_id where that is
    name: str  # the same of the recording
    shelf: str  # one of 256 directories, so that none holds millions of clips
    recording_id: str
    segment_id: str
    uri: str
    start_s: float
    end_s: float
    text: str
    language: str
    emotion: str
    event: str
    sounds: tuple[Mapping[str, Any], ...]  # event, start_s, end_s, probability
    confidence: float
    itn: bool
    words: tuple[Mapping[str, Any], ...]  # word, start_s, end_s, confidence
    recording_end_s: float
    sample_rate_hz: int
    channels: int

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def n_samples(self) -> int:
        """Samples of its clip, at SAMPLE_RATE."""
        return round(self.end_s * SAMPLE_RATE) - round(self.start_s * SAMPLE_RATE)

    @property
    def clip(self) -> str:
        """Where its clip lies under the export's directory, if clips are cut."""
        return f"audio/{self.shelf}/{self.key}.wav"


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """Where an export is written."""

    folder: Path  # to write in; it is moved to `home` when it is complete
    home: Path  # absolute, for formats whose paths must be
    clips: bool  # whether the clips lie under `folder`, or rows refer to whole recordings


_COLUMNS = (
    *("key", "name", "shelf", "recording_id", "segment_id", "uri", "start_s", "end_s", "text"),
    *("language", "emotion", "event", "sounds", "confidence", "itn", "words"),
    *("recording_end_s", "sample_rate_hz", "channels"),
)


def choose(connection: "duckdb.DuckDBPyConnection", where: str) -> None:
    """Prepare `read_rows`: the segments that fit an SQL condition on the view `segments`.

    The condition is parsed as one expression, so it cannot be anything else. Raises duckdb.Error.
    """
    chosen = connection.view("segments")
    if where:
        chosen = chosen.filter(where)
    chosen.create_view("chosen", replace=True)
    connection.execute(_NAMES)


def read_rows(
    connection: "duckdb.DuckDBPyConnection", order: Order = "recording_id, segment_id"
) -> Iterator[Row]:
    """The chosen segments. One iteration at a time: the connection holds one answer."""
    columns = ", ".join(_COLUMNS)
    answer = connection.execute(f"SELECT {columns} FROM exported ORDER BY {order}")
    while rows := answer.fetchmany(_FETCH):
        for values in rows:
            row = dict(zip(_COLUMNS, values, strict=True))
            row["sounds"], row["words"] = tuple(row["sounds"]), tuple(row["words"])
            yield Row(**row)
