"""Corrections by people: one immutable object for each save. Knows the store; no audio, no pages.

`_reviews/{hash}/{recording}/{channel}-{start ms}-{end ms}/{revision}.json` is written once, with
put_if_absent. Of two people who save the same interval at the same time, one gets a conflict.
Nothing that was saved is ever changed or deleted: a correction of a correction, or its undoing, is
the next revision. review_table folds the newest revisions into a table.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import ConfigError, PipelineError, StoreError
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES, REVIEWS
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store
from pipeline.tables.parquet import N_READERS

FOLDER = "_reviews/"

Verdict = Literal["right", "fixed", "unusable", "unsure", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Interval:
    """The stretch of audio that a review is about. It outlives segments and models."""

    recording_id: str
    version: str  # of the audio
    start_s: float
    end_s: float
    channel: int | None = None  # None: all channels, mixed

    @property
    def folder(self) -> str:
        """Key of the directory with its revisions. Times are compared to the millisecond."""
        place = f"{self.recording_id}\0{self.version}".encode()
        digest = hashlib.blake2b(place, digest_size=16).hexdigest()
        channel = "mixed" if self.channel is None else f"channel{self.channel}"
        span = f"{round(self.start_s * 1000)}-{round(self.end_s * 1000)}"
        return f"{FOLDER}{digest[:2]}/{digest}/{channel}-{span}/"


@dataclass(frozen=True, slots=True)
class Labels:
    """What is said of an interval, by a model or by a person."""

    text: str
    language: str
    emotion: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The segment that a reviewer saw."""

    segment_id: str
    fingerprint: str
    seq: int
    labels: Labels


@dataclass(frozen=True, slots=True)
class Review:
    """One revision of what a person says about an interval."""

    interval: Interval
    revision: int  # from 1
    verdict: Verdict
    labels: Labels
    shown: Shown
    reviewer: str
    saved_at: datetime
    request_id: str
    note: str = ""
    spent_s: float = 0.0
    sample: Literal["random", ""] = ""


class ReviewConflict(PipelineError):
    """Another person saved the interval after it was shown. `theirs` is the newest revision."""

    def __init__(self, theirs: Review) -> None:
        super().__init__(
            f"{theirs.shown.segment_id}: {theirs.reviewer or 'another person'} saved revision "
            f"{theirs.revision} of this segment in the meantime; compare it and save again"
        )
        self.theirs = theirs


def check_labels(labels: Labels) -> None:
    """Raises ConfigError for a label that the models do not know."""
    for name, values, known in (
        ("language", (labels.language,), LANGUAGES),
        ("emotion", (labels.emotion,), EMOTIONS),
        ("events", labels.events, EVENTS),
    ):
        if unknown := [value for value in values if value not in known]:
            raise ConfigError(f"{name}: {unknown[0]!r} is none of {', '.join(known)}")


def save(store: Store, review: Review) -> Review:
    """Write one revision; returns what is stored. It is durable when this returns.

    `review.revision` is the newest revision that the reviewer saw plus 1. A save that is sent again
    with the same request_id is made once. Raises ReviewConflict if that revision is not the next
    one, OSError if the store is away.
    """
    present = history(store, review.interval)
    for saved in present:
        if saved.request_id == review.request_id:
            return saved
    newest = present[-1].revision if present else 0
    if review.revision <= newest:
        raise ReviewConflict(present[-1])
    if review.revision > newest + 1:
        raise ValueError(f"revision {review.revision} does not follow {newest}, the newest")
    key = f"{review.interval.folder}{review.revision:06d}.json"
    if store.put_if_absent(key, _to_json(review)):
        return review
    theirs = _read(store, key)
    if theirs.request_id == review.request_id:
        return theirs
    raise ReviewConflict(theirs)


def history(store: Store, interval: Interval) -> list[Review]:
    """All revisions of an interval, the oldest first."""
    return [_read(store, key) for key in store.list(interval.folder)]


def newest_keys(store: Store) -> dict[str, tuple[int, str]]:
    """(revision, key) of the newest revision in each interval's folder."""
    newest: dict[str, tuple[int, str]] = {}
    for key in store.list(FOLDER):  # sorted, so that a later revision replaces an earlier one
        folder, _, name = key.rpartition("/")
        number = name.removesuffix(".json")
        if number.isdigit():
            newest[f"{folder}/"] = int(number), key
    return newest


def read_reviews(store: Store, keys: Iterable[str]) -> list[Review]:
    """The reviews of these keys. Raises StoreError for an object that is damaged."""
    with ThreadPoolExecutor(N_READERS) as pool:
        return list(pool.map(lambda key: _read(store, key), keys))


def to_table(reviews: Iterable[Review]) -> pa.Table:
    """Rows of schema.REVIEWS, by recording and time."""
    rows = [_to_row(review) for review in reviews]
    rows.sort(key=lambda row: (row["recording_id"], row["start_s"], row["end_s"], row["version"]))
    return pa.Table.from_pylist(rows, REVIEWS)


def from_row(row: Mapping[str, Any]) -> Review:
    """The review in a row of schema.REVIEWS."""
    return Review(
        interval=Interval(
            row["recording_id"], row["version"], row["start_s"], row["end_s"], row["channel"]
        ),
        revision=row["revision"],
        verdict=row["verdict"],
        labels=_labels(row),
        shown=Shown(row["segment_id"], row["fingerprint"], row["seq"], _labels(row["shown"])),
        reviewer=row["reviewer"],
        saved_at=row["saved_at"],
        request_id=row["request_id"],
        note=row["note"],
        spent_s=row["spent_s"],
        sample=row["sample"],
    )


def _to_row(review: Review) -> dict[str, Any]:
    shown = review.shown
    return {
        **asdict(review.interval),
        "revision": review.revision,
        "verdict": review.verdict,
        **asdict(review.labels),
        "note": review.note,
        "reviewer": review.reviewer,
        "saved_at": review.saved_at,
        "spent_s": review.spent_s,
        "sample": review.sample,
        "segment_id": shown.segment_id,
        "fingerprint": shown.fingerprint,
        "seq": shown.seq,
        "shown": asdict(shown.labels),
        "request_id": review.request_id,
    }


def _labels(row: Mapping[str, Any]) -> Labels:
    return Labels(row["text"], row["language"], row["emotion"], tuple(row["events"]))


def _to_json(review: Review) -> bytes:
    row = _to_row(review)
    row["saved_at"] = review.saved_at.isoformat()
    return json.dumps({"review_version": 1, **row}, ensure_ascii=False, indent=1).encode()


def _read(store: Store, key: str) -> Review:
    return read_twice(lambda: _parse(store, key), StoreError)


def _parse(store: Store, key: str) -> Review:
    try:
        row = json.loads(store.get(key))
        if row["review_version"] > 1:
            raise StoreError(f"{store.uri(key)}: a newer version of this program wrote it; upgrade")
        review = from_row({**row, "saved_at": datetime.fromisoformat(row["saved_at"])})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{store.uri(key)}: this review cannot be read ({type(error).__name__}: {error}); "
            "restore the object from a backup or an older version"
        ) from error
    if f"{review.interval.folder}{review.revision:06d}.json" != key:
        raise StoreError(f"{store.uri(key)}: holds the review of another interval; restore it")
    return review
