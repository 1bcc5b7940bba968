"""The labelled segments that an export selects, as rows. Knows SQL and names; writes nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.export.reviewed import Reviewed, corrected_events, kept_words, labels_of, split_of
from pipeline.schema import SAMPLE_RATE

if TYPE_CHECKING:
    import duckdb

_FETCH = 10_000  # rows in memory at a time

# A recording_id may be a whole URI. Its name, for file names and line formats, is the id itself if
# that is short and has only letters, digits and "_.-". Otherwise it is the end of the id, with "_"
# for all other characters, and its hash. An id that ends like such a name gets one with a hash,
# too: so no two ids have one name. The hash is long, because ids with equal hashes of ten digits
# are found within seconds. DuckDB sorts names by bytes, like LC_ALL=C.
_NAMES = r"""
    CREATE OR REPLACE VIEW exported AS
    SELECT
        c.*, name, name || substr(segment_id, length(recording_id) + 1) AS key,
        left(md5(recording_id), 2) AS subfolder,
        version, greatest(recording_end_s, last_end_s) AS recording_end_s, sample_rate_hz, channels,
        start_offset_s, audio_stream, split, speaker,
        coalesce(v.tag, 'unknown') AS event,
        coalesce(v.sounds, []) AS sounds
    FROM selected c
    JOIN (
        SELECT
            recording_id, version, sample_rate_hz, channels,
            offset_s + duration_s / coalesce(n_streams, 1) AS recording_end_s,
            coalesce(start_offset_s, 0) AS start_offset_s,
            coalesce(audio_stream, 0) AS audio_stream,
            CASE WHEN regexp_full_match(recording_id, '[\p{L}\p{N}_][\p{L}\p{N}_.-]{0,49}')
                AND NOT regexp_matches(recording_id, '--[0-9a-f]{32}$')
                THEN recording_id
                ELSE right(regexp_replace(recording_id, '[^\p{L}\p{N}_]+', '_', 'g'), 50)
                    || '--' || left(sha256(recording_id), 32)
            END AS name
        FROM recordings
    ) USING (recording_id)
    JOIN (
        SELECT recording_id, max(end_s) AS last_end_s FROM transcripts GROUP BY recording_id
    ) USING (recording_id)
    LEFT JOIN (
        SELECT
            segment_id, any_value(event) FILTER (source = 'tag') AS tag,
            list({'event': event, 'start_s': start_s, 'end_s': end_s, 'probability': probability}
                ORDER BY start_s, source DESC) AS sounds
        FROM events GROUP BY segment_id
    ) v USING (segment_id)
    JOIN splits USING (recording_id)
    LEFT JOIN (
        SELECT recording_id, CASE
            WHEN regexp_full_match(said, '[\p{L}\p{N}_][\p{L}\p{N}_.-]{0,49}') THEN said
            ELSE left(regexp_replace(said, '[^\p{L}\p{N}_]+', '_', 'g'), 40)
                    || '--' || left(sha256(said), 16)
        END AS speaker
        FROM (SELECT recording_id, extra['speaker'] AS said FROM recordings)
        WHERE said <> ''
    ) USING (recording_id)
"""

# Kaldi sorts by utterance.
_UTTERANCE = "CASE WHEN speaker IS NULL THEN key ELSE speaker || '-' || key END"
Order = Literal["time", "utterance"]
_ORDERS: Mapping[Order, str] = {"time": "recording_id, segment_id", "utterance": _UTTERANCE}


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One labelled segment. Times are seconds from the first sample of the audio at `uri`."""

    key: str  # unique, and safe as a file name or a word of a line; equal to segment_id if that is
    name: str  # the same for the recording
    subfolder: str  # one of 256, so that no directory holds millions of clips
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
    confidence: float | None  # None: no text
    itn: bool
    words: tuple[Mapping[str, Any], ...]  # word, start_s, end_s, confidence
    recording_end_s: float
    sample_rate_hz: int
    channels: int
    extra: Mapping[str, str] = field(default_factory=dict)  # columns of the manifest
    split: str = "train"
    speaker: str = ""  # of the manifest, safe as a word of a line; "": not known
    start_offset_s: float = 0.0  # how much later than its video the audio of the file starts
    audio_stream: int = 0  # the one that was decoded, from 0
    version: str = ""  # of the audio
    model_text: str = ""  # what the model said, also where a person corrected it
    revision: int = 0  # of the review that these labels are of; 0: the model's own
    channel: int = 0  # the one that was labelled, from 1; 0: all, mixed

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def n_samples(self) -> int:
        """Length of its clip at SAMPLE_RATE."""
        return round(self.end_s * SAMPLE_RATE) - round(self.start_s * SAMPLE_RATE)

    @property
    def utterance(self) -> str:
        """Its name in Kaldi: the speaker's, if it is known, and the key."""
        return f"{self.speaker}-{self.key}" if self.speaker else self.key

    @property
    def clip(self) -> str:
        """Path of its clip in the directory of the export, if clips are cut."""
        return f"audio/{self.subfolder}/{self.key}.wav"


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """Where an export is written."""

    staging: Path  # the directory to write in; it becomes `final` when it is complete
    final: str  # absolute path or URI, for formats that name clips by it
    clips: bool  # True: the clips are in `staging`; False: rows refer to whole recordings
    shard_bytes: int = 256 << 20  # of audio in one file, where formats put clips into files
    fingerprint: str = ""  # whose labels these are, ...
    seq: int = 0  # ... and of which commit
    sample: Literal["random", ""] = ""  # random: drawn by chance from the whole corpus

    def place(self, row: ExportRow) -> str:
        """Where the clip of a row will be."""
        return f"{self.final}/{row.clip}"


_OF_REVIEW = ("verdict", "events")
_COLUMNS = (
    *("key", "name", "subfolder", "recording_id", "segment_id", "uri", "start_s", "end_s", "text"),
    *("language", "emotion", "event", "sounds", "confidence", "itn", "words", "extra", "split"),
    *("speaker", "recording_end_s", "sample_rate_hz", "channels", "start_offset_s"),
    *("audio_stream", "version", "revision", "model_text", "channel", *_OF_REVIEW),
)


def select_rows(
    connection: "duckdb.DuckDBPyConnection",
    where: str,
    reviewed: Reviewed = "ignore",
    test_share: float = 0.0,
    draw: int | None = None,
) -> None:
    """Select the segments for `read_rows` by an SQL condition on the view `segments`.

    `draw` leaves this many of them, chosen by chance and the same each time: twice as many hold
    those of the first draw.

    With corrections (`reviewed`), the condition sees the corrected labels. DuckDB parses it as one
    expression, so it cannot contain statements. Raises duckdb.Error.
    """
    selected = connection.sql(labels_of(reviewed))
    if where:
        selected = selected.filter(where)
    if draw is not None:
        selected = selected.order("md5(segment_id), segment_id").limit(draw)
    selected.create_view("selected", replace=True)
    connection.execute(f"CREATE OR REPLACE VIEW splits AS {split_of(test_share)}")
    connection.execute(_NAMES)


def read_rows(
    connection: "duckdb.DuckDBPyConnection", order: Order = "time"
) -> Iterator[ExportRow]:
    """The selected segments. Finish one iteration before the next: they share the connection."""
    columns = ", ".join(_COLUMNS)
    answer = connection.execute(f"SELECT {columns} FROM exported ORDER BY {_ORDERS[order]}")
    while rows := answer.fetchmany(_FETCH):
        for values in rows:
            yield _row(dict(zip(_COLUMNS, values, strict=True)))


def _row(values: dict[str, Any]) -> ExportRow:
    verdict, events = (values.pop(name) for name in _OF_REVIEW)
    words, sounds = tuple(values["words"]), tuple(values["sounds"])
    if verdict is not None:
        values["event"], sounds = corrected_events(values["event"], sounds, events, _span(values))
    if values["model_text"] != values["text"]:
        words = kept_words(words, values["text"])
    changed = {
        "words": words,
        "sounds": sounds,
        "extra": dict(values["extra"] or {}),
        "speaker": values["speaker"] or "",
        "revision": values["revision"] or 0,
        "channel": values["channel"] or 0,
    }
    return ExportRow(**(values | changed))


def _span(values: Mapping[str, Any]) -> tuple[float, float]:
    return values["start_s"], values["end_s"]
