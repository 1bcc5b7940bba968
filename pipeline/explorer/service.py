"""The snapshot that is shown, its reviews and its queues. Knows tables; knows no HTTP, no audio."""

import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, get_args

from pipeline.errors import ConfigError, StoreError
from pipeline.explorer.differences import Pairs, What
from pipeline.explorer.query_processes import QueryProcesses, SnapshotChoice
from pipeline.explorer.queue import Queue, Sample, freeze
from pipeline.explorer.settings import Settings
from pipeline.report.accuracy import Accuracy, measure
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES
from pipeline.storage.probe import probe
from pipeline.storage.redaction import redact
from pipeline.storage.store import Store
from pipeline.tables import Snapshot, open_snapshot
from pipeline.tables.commit_log import derived_seq
from pipeline.tables.review_table import current_reviews, fold_reviews
from pipeline.tables.reviews import (
    Interval,
    Labels,
    Review,
    ReviewConflict,
    Shown,
    Verdict,
    check_labels,
    from_row,
    history,
    save,
    to_table,
)

log = logging.getLogger(__name__)

_MOST_QUEUED = 5000
_VERDICTS = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Correction:
    """What the page sends to save: one revision of a segment's labels."""

    segment_id: str
    revision: int  # the newest one that the reviewer saw; 0: none
    verdict: Verdict
    labels: Labels
    request_id: str
    note: str = ""
    spent_s: float = 0.0
    sample: Sample = ""


class ExplorerService:
    """What the explorer knows. Methods may be called from several threads at once."""

    def __init__(self, settings: Settings) -> None:
        """Raises StoreError without tables, or for a store that cannot keep two reviewers apart."""
        self.settings = settings
        self.snapshot: Snapshot = open_snapshot(
            settings.root, settings.options, settings.seq, settings.fingerprint
        )
        self.store: Store = self.snapshot.store
        if not settings.read_only:
            probe(self.store)  # without conditional writes, one of two reviews would be lost
        self._lock = threading.Lock()
        self._lock_of_others = threading.Lock()
        self._reviews = {
            review.interval.folder: review
            for review in map(
                from_row, current_reviews(self.store, self.snapshot.state).to_pylist()
            )
        }
        self._queues: dict[str, Queue] = {}
        self._others: dict[str, Pairs] = {}
        choice = SnapshotChoice(
            settings.root, settings.options, self.snapshot.seq, self.snapshot.fingerprint
        )
        self.queries = QueryProcesses(choice, settings.limit_s)
        self.queries.use_reviews(to_table(self._reviews.values()))
        self.queries.ask("count", "")  # so that a damaged output is refused at the start

    def close(self) -> None:
        """Commit the reviews that were saved, and end the processes."""
        self.queries.close()
        if self.settings.read_only or not self._reviews:
            return
        try:
            fold_reviews(self.store)
        except (StoreError, OSError) as error:
            log.warning(
                "all reviews are saved, but the table `reviews` does not have the newest yet; "
                "`compact` adds them (%s)",
                redact(str(error)),
            )

    def state(self) -> dict[str, Any]:
        """What the page needs to know first."""
        return {
            "seq": self.snapshot.seq,
            "newest_seq": max(derived_seq(self.store), self.snapshot.seq),
            "fingerprint": self.snapshot.fingerprint,
            "fingerprints": sorted(
                {file.fingerprint for file in self.snapshot.state.files["recordings"].values()}
            ),
            "root": self.store.root,
            "reviewer": self.settings.reviewer,
            "read_only": self.settings.read_only,
            "n_segments": self.queries.ask("count", ""),
            "languages": LANGUAGES,
            "emotions": EMOTIONS,
            "events": EVENTS,
            "verdicts": _VERDICTS,
        }

    def segment(self, segment_id: str) -> dict[str, Any] | None:
        """One segment as the page shows it."""
        found: dict[str, Any] | None = self.queries.ask("segment", segment_id)
        return found

    def save(self, correction: Correction) -> Review:
        """Store one revision. Raises ConfigError, ReviewConflict, ValueError, OSError."""
        segment = self.segment(correction.segment_id)
        if segment is None:
            raise ConfigError(f"there is no segment {correction.segment_id!r} in this snapshot")
        _check(correction)
        interval = _interval(segment)
        with self._lock:
            before = self._reviews.get(interval.folder)
        review = Review(
            interval=interval,
            revision=correction.revision + 1,
            verdict=correction.verdict,
            labels=correction.labels,
            shown=Shown(
                correction.segment_id,
                self.snapshot.fingerprint,
                self.snapshot.seq,
                _labels_of(segment),
            ),
            reviewer=self.settings.reviewer,
            saved_at=datetime.now(UTC),
            request_id=correction.request_id,
            note=correction.note,
            spent_s=correction.spent_s,
            # Drawn by chance once, it stays so, wherever it is corrected again.
            sample=correction.sample or (before.sample if before else ""),
        )
        return self._save(review)

    def undo(self, segment_id: str, revision: int) -> Review:
        """Save what was there before `revision` as the next one; without any, withdraw it."""
        segment = self.segment(segment_id)
        if segment is None:
            raise ConfigError(f"there is no segment {segment_id!r} in this snapshot")
        revisions = history(self.store, _interval(segment))
        present = next((one for one in revisions if one.revision == revision), None)
        if present is None:
            raise ConfigError(f"{segment_id}: there is no revision {revision} to undo")
        before = next((one for one in revisions if one.revision == revision - 1), None)
        review = replace(
            before or replace(present, verdict="withdrawn"),
            revision=revision + 1,
            reviewer=self.settings.reviewer,
            saved_at=datetime.now(UTC),
            request_id=uuid.uuid4().hex,
            sample=present.sample,
        )
        return self._save(review)

    def history(self, segment_id: str) -> list[Review]:
        """All revisions of a segment, the oldest first."""
        segment = self.segment(segment_id)
        return history(self.store, _interval(segment)) if segment else []

    def queue(self, where: str, size: int, share_random: float) -> Queue:
        """A new frozen order of review."""
        if not 1 <= size <= _MOST_QUEUED or not 0 <= share_random <= 1:
            raise ConfigError(
                f"a queue has 1 to {_MOST_QUEUED} segments, and a random share of 0 to 1"
            )
        seed = int.from_bytes(uuid.uuid4().bytes[:4])
        queue = freeze(_Chooser(self.queries), where, size, share_random, seed)
        self._queues[queue.queue_id] = queue
        return queue

    def queued(self, queue_id: str) -> Queue:
        """A queue of this process; ConfigError for one that it does not know."""
        try:
            return self._queues[queue_id]
        except KeyError:
            raise ConfigError(f"there is no queue {queue_id!r} any more; make a new one") from None

    def accuracy(self) -> Accuracy:
        """From the reviews of this fingerprint that were drawn by chance."""
        with self._lock:
            reviews = to_table(self._reviews.values()).to_pylist()
        mine = [row for row in reviews if row["fingerprint"] == self.snapshot.fingerprint]
        return measure(mine)

    def differences(self, other: str, what: What, rank: int, limit: int) -> dict[str, Any]:
        """Segments of which the model `other` says something else, from the `rank`-th on."""
        with self._lock_of_others:  # finding the pairs takes seconds; saves do not wait for it
            if other not in self._others:
                self._others[other] = Pairs(
                    self.snapshot,
                    open_snapshot(
                        self.settings.root, self.settings.options, self.snapshot.seq, other
                    ),
                )
        return self._others[other].page(what, rank, limit)

    def _save(self, review: Review) -> Review:
        try:
            return self._keep(save(self.store, review))
        except ReviewConflict as conflict:
            self._keep(conflict.theirs)  # another explorer saved it
            raise

    def _keep(self, review: Review) -> Review:
        with self._lock:
            self._reviews[review.interval.folder] = review
            self.queries.use_reviews(to_table(self._reviews.values()))
        return review


@dataclass(frozen=True, slots=True)
class _Chooser:
    queries: QueryProcesses

    def sample(self, where: str, size: int, seed: int) -> list[str]:
        found: list[str] = self.queries.ask("sample", where, size, seed)
        return found

    def most_uncertain(self, where: str, size: int, most_each: int) -> list[str]:
        found: list[str] = self.queries.ask("most_uncertain", where, size, most_each)
        return found


def as_json(review: Review) -> dict[str, Any]:
    """A review as the page reads it."""
    values = asdict(review)
    values["saved_at"] = review.saved_at.isoformat()
    return values


def _interval(segment: Mapping[str, Any]) -> Interval:
    """Of its review, if there is one: another model may have cut the segment a little elsewhere."""
    start_s, end_s = segment["reviewed_s"] or (segment["start_s"], segment["end_s"])
    version, channel = segment["recording"]["version"], segment["channel"]
    return Interval(segment["recording_id"], version, start_s, end_s, channel)


def _labels_of(segment: Mapping[str, Any]) -> Labels:
    return Labels(
        segment["text"],
        segment["language"]["label"],
        segment["emotion"]["label"],
        tuple(event["event"] for event in segment["events"]),
    )


def _check(correction: Correction) -> None:
    check_labels(correction.labels)
    if correction.verdict not in _VERDICTS:
        raise ConfigError(f"verdict: {correction.verdict!r} is none of {', '.join(_VERDICTS)}")
    if correction.verdict == "withdrawn":
        raise ConfigError("verdict: a review is withdrawn by undoing it")
