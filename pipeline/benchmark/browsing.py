"""An output of millions of segments, and what the explorer's pages take over it.

The labels are drawn by chance; the files, columns and the commit are those of a label run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipeline.arrow import pc
from pipeline.explorer.browse import Browser
from pipeline.explorer.queue import freeze
from pipeline.schema import (
    EMOTIONS,
    EVENTS,
    LANGUAGES,
    OPTIONAL_TABLES,
    REVIEWS,
    SCHEMA_VERSION,
    TABLES,
)
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.commit_log import Record, write_derived, write_record
from pipeline.tables.locked_sql import connect_locked
from pipeline.tables.parts import PartWriter

_FINGERPRINT = "b" * 32
_SEGMENTS_EACH = 100  # of a recording
_RECORDINGS_A_PART = 1000
_N_WORDS = 5
_N_TEXTS = 5000
_SEGMENT_S = 4.0


@dataclass(frozen=True, slots=True)
class PageCost:
    """What one request of the explorer takes, beside others' (the median of the repeats)."""

    page: str
    wall_s: float


def make_root(work: Path, n_segments: int) -> str:
    """Write a committed output of about `n_segments` segments, 100 of each recording; its root."""
    root = str(work / "labels")
    store = open_store(root)
    writer = PartWriter(store, _FINGERPRINT, "c00000001-made", 1 << 28)
    for first in range(0, -(-n_segments // _SEGMENTS_EACH), _RECORDINGS_A_PART):
        last = min(first + _RECORDINGS_A_PART, -(-n_segments // _SEGMENTS_EACH))
        writer.add(_part(first, last))
    record = Record(
        seq=1,
        commit_id="made",
        run_id="made",
        committed_at="2026-11-26T00:00:00+00:00",
        schema_version=SCHEMA_VERSION,
        added=writer.finish(),
        current_fingerprint=_FINGERPRINT,
    )
    write_record(store, record)
    write_derived(store, open_snapshot(root).state)
    return root


def measure_pages(root: str, repeats: int = 3) -> Iterator[PageCost]:
    """The requests that a person waits for, each `repeats` times after the first."""
    started = time.monotonic()
    snapshot = open_snapshot(root)
    with connect_locked(snapshot, settings={"threads": "2"}) as connection:
        browser = Browser(connection, snapshot, REVIEWS.empty_table())
        yield PageCost("open", time.monotonic() - started)
        yield from _requests(browser, repeats)


def _requests(browser: Browser, repeats: int) -> Iterator[PageCost]:
    first = browser.page("", "key", None, 50)
    filtered = "language = 'yue' AND confidence < 0.5"
    asked: dict[str, Callable[[], object]] = {
        "first page": lambda: browser.page("", "key", None, 50),
        "next page": lambda: browser.page("", "key", first.cursor, 50),
        "filtered page": lambda: browser.page(filtered, "key", None, 50),
        "most uncertain": lambda: browser.page("", "uncertainty", None, 50),
        "random": lambda: browser.page("", "random", None, 50),
        "facets": lambda: browser.facets(""),
        "filtered facets": lambda: browser.facets(filtered),
        "one segment": lambda: browser.segment(first.rows[0]["segment_id"]),
        "text search": lambda: browser.page("text ILIKE '%needle%'", "key", None, 50),
        "queue of 500": lambda: freeze(browser, "", 500, 0.1, seed=1),
    }
    for page, ask in asked.items():
        ask()
        walls_s = []
        for _ in range(repeats):
            started = time.monotonic()
            ask()
            walls_s.append(time.monotonic() - started)
        yield PageCost(page, float(np.median(walls_s)))


def show_pages(console: Console, costs: list[PageCost], n_segments: int) -> None:
    """Print the costs as a table."""
    table = Table(title=f"the explorer over {n_segments:,} segments")
    table.add_column("request")
    table.add_column("seconds", justify="right")
    for cost in costs:
        table.add_row(cost.page, f"{cost.wall_s:.3f}")
    console.print(table)


def _part(first: int, last: int) -> dict[str, pa.Table]:
    """All tables of the recordings [first, last)."""
    rng = np.random.default_rng(first)
    n_recordings = last - first
    recording_ids = pa.array([f"corpus/{n % 97:02d}/recording-{n:08d}" for n in range(first, last)])
    recording_ids = recording_ids.take(pc.sort_indices(recording_ids))
    owner = np.repeat(np.arange(n_recordings), _SEGMENTS_EACH)
    n_rows = len(owner)
    index = np.tile(np.arange(_SEGMENTS_EACH), n_recordings)
    ids = recording_ids.take(pa.array(owner))
    start_s = index * (_SEGMENT_S + 1.0)
    keys: dict[str, Any] = {
        "recording_id": ids,
        "segment_id": [f"{name}-{at:06d}" for name, at in zip(ids.to_pylist(), index, strict=True)],
        "start_s": start_s,
        "end_s": start_s + _SEGMENT_S,
    }
    texts = [
        " ".join(f"word{word}" for word in rng.integers(0, 3000, _N_WORDS)) for _ in range(_N_TEXTS)
    ]
    texts[0] = "a needle in a haystack"
    language, languages = _labels(rng, LANGUAGES, n_rows)
    emotion, emotions = _labels(rng, EMOTIONS, n_rows)
    tables = {
        "transcripts": keys
        | {
            "text": pa.array(texts).take(pa.array(rng.integers(0, _N_TEXTS, n_rows))),
            "rich_text": pa.array(texts).take(pa.array(rng.integers(0, _N_TEXTS, n_rows))),
            "language": language,
            "confidence": rng.random(n_rows, np.float32),
            "n_tokens": np.full(n_rows, _N_WORDS, np.int32),
            "words": _words(start_s),
            "itn": np.zeros(n_rows, bool),
        },
        "languages": keys | {"language": language} | languages,
        "emotions": keys | {"emotion": emotion, "emotion_forced": emotion} | emotions,
        "events": keys
        | {
            "event": _choices(rng, EVENTS, n_rows),
            "probability": rng.random(n_rows, np.float32),
            "source": ["tag"] * n_rows,
        },
        "recordings": _recordings(recording_ids),
    }
    absent = {name: TABLES[name].empty_table() for name in OPTIONAL_TABLES}
    return {name: _table(name, columns) for name, columns in tables.items()} | absent


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    """With nulls in the columns that are not given."""
    n_rows = len(columns["recording_id"])
    values = {
        field.name: columns.get(field.name, pa.nulls(n_rows, field.type)) for field in TABLES[name]
    }
    return pa.table(values, TABLES[name])


def _labels(
    rng: np.random.Generator, names: tuple[str, ...], n_rows: int
) -> tuple[Any, dict[str, Any]]:
    """The labels, and the other columns of their table."""
    distribution = rng.dirichlet(np.full(len(names), 0.3), n_rows).astype(np.float32)
    order = np.argsort(distribution, axis=1)
    rows = np.arange(n_rows)
    known = pa.array(names)
    entropy = -np.sum(distribution * np.log(np.maximum(distribution, 1e-9)), axis=1)
    best, second = order[:, -1], order[:, -2]
    columns = {
        "probability": distribution[rows, best],
        "runner_up": known.take(pa.array(second)),
        "runner_up_probability": distribution[rows, second],
        "probabilities": pa.StructArray.from_arrays(
            [pa.array(column) for column in distribution.T],
            fields=[pa.field(name, pa.float32(), nullable=False) for name in names],
        ),
        "entropy": entropy.astype(np.float32),
    }
    return known.take(pa.array(best)), columns


def _choices(rng: np.random.Generator, names: tuple[str, ...], n_rows: int) -> Any:
    return pa.array(names).take(pa.array(rng.integers(0, len(names), n_rows)))


def _words(start_s: npt.NDArray[Any]) -> Any:
    """Five words of half a second in each segment."""
    kind = TABLES["transcripts"].field("words").type
    starts = (start_s[:, None] + np.arange(_N_WORDS) * 0.6).ravel()
    words = pa.StructArray.from_arrays(
        [
            pa.array([f"word{n}" for n in range(_N_WORDS)] * len(start_s)),
            pa.array(starts),
            pa.array(starts + 0.5),
            pa.array(np.full(len(starts), 0.9, np.float32)),
            pa.array(starts + 0.25),
        ],
        fields=list(kind.value_type),
    )
    offsets = np.arange(0, len(starts) + 1, _N_WORDS, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), words, type=kind)


def _recordings(recording_ids: Any) -> dict[str, Any]:
    n_rows = len(recording_ids)
    duration_s = np.full(n_rows, _SEGMENTS_EACH * (_SEGMENT_S + 1.0))
    labelled_s = np.full(n_rows, _SEGMENTS_EACH * _SEGMENT_S)
    given: dict[str, Any] = {
        "recording_id": recording_ids,
        "uri": pc.binary_join_element_wise("s3://made", recording_ids, "/"),
        "version": ["v1"] * n_rows,
        "status": ["ok"] * n_rows,
        "duration_s": duration_s,
        "labelled_s": labelled_s,
        "silence_s": duration_s - labelled_s,
        "n_segments": np.full(n_rows, _SEGMENTS_EACH, np.int32),
        "fingerprint": [_FINGERPRINT] * n_rows,
    }
    return {field.name: given.get(field.name, _nothing(field, n_rows)) for field in _FIELDS}


def _nothing(field: "pa.Field[Any]", n_rows: int) -> Any:
    if field.nullable:
        return pa.nulls(n_rows, field.type)
    if pa.types.is_map(field.type):
        return pa.array([[("corpus", "made")]] * n_rows, field.type)
    value = "" if pa.types.is_string(field.type) else 0
    return pa.array([value] * n_rows, field.type)


_FIELDS = tuple(TABLES["recordings"])
