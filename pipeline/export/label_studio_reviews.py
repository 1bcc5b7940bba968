"""What annotators said in Label Studio, as reviews. Knows annotations and tables; no server.

Each region of an annotation that fits a segment becomes a review, saved as the explorer saves one:
of two people who reviewed the same segment, the second has a conflict. What does not become a
review is listed with its reason.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import ConfigError, StoreError
from pipeline.export import label_studio as controls
from pipeline.export.annotations import Annotation, Region, read_annotations
from pipeline.storage.probe import probe
from pipeline.storage.store import Store, open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.review_table import (
    SAME_SHARE,
    create_review_views,
    current_reviews,
    fold_reviews,
)
from pipeline.tables.reviews import (
    Interval,
    Labels,
    Review,
    ReviewConflict,
    Shown,
    Verdict,
    check_labels,
    history,
    save,
)

Reason = Literal[
    "conflict",  # another person reviewed the segment, and this annotator did not see it
    "unknown task",  # not made by `export`, or of labels that this output does not hold
    "unknown segment",  # a region that was drawn anew: no segment is there
    "moved",  # its interval was changed so far that it is another stretch of audio
    "deleted",  # the annotation has no region for a segment of its task
    "bad label",  # a value that is none of ours, or a control of another configuration
]

_SEGMENTS = """
    SELECT
        s.recording_id, r.version, s.segment_id, s.start_s, s.end_s,
        s.text, s.language, s.emotion, s.events,
        coalesce(v.start_s, s.start_s), coalesce(v.end_s, s.end_s), s.channel
    FROM segments s
    JOIN wanted USING (recording_id)
    JOIN recordings r ON r.recording_id = s.recording_id
    LEFT JOIN fitted_reviews v ON v.segment_id = s.segment_id
    ORDER BY s.segment_id
"""


_VERDICTS: Mapping[str, Verdict] = {"unusable": "unusable", "unsure": "unsure"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the export that did not become a review."""

    reason: Reason
    task: str  # its number in Label Studio
    segment: str  # segment_id, or the id of the region
    message: str


@dataclass(slots=True)
class Imported:
    """What one import did. Everything in the file is in one of these counts."""

    n_tasks: int
    n_without: int  # tasks without an annotation
    n_cancelled: int  # annotations that their author skipped
    n_saved: int = 0
    n_present: int = 0  # reviews that were saved before
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many problems there are of each reason."""
        return dict(Counter(problem.reason for problem in self.problems))


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment that was shown, as the tables have it."""

    region_id: str
    shown: Shown
    start_s: float
    end_s: float
    interval: Interval  # of its review, if there is one


def import_reviews(root: str, path: Path, options: Mapping[str, Any] | None = None) -> Imported:
    """Save the annotations in a JSON export of Label Studio as reviews, and commit them.

    An import that is made twice, or that was interrupted, adds only what is missing. Raises
    ConfigError for a file that is no export, StoreError for a store or tables that cannot be used.
    """
    read = read_annotations(path)
    store = open_store(root, options)
    found = Imported(read.n_tasks, read.n_without, read.n_cancelled)
    for number in read.foreign_tasks:
        message = "was not made by `jobs export --format label-studio`"
        found.problems.append(Problem("unknown task", number, "", message))
    probe(store)  # without conditional writes, one of two reviews would be lost
    segments = _segments(root, options, read.annotations, found)
    for annotation in read.annotations:
        if annotation.task.fingerprint in segments:
            _import_annotation(store, annotation, segments[annotation.task.fingerprint], found)
    if found.n_saved or found.n_present:
        fold_reviews(store)
    return found


def _segments(
    root: str,
    options: Mapping[str, Any] | None,
    annotations: Sequence[Annotation],
    found: Imported,
) -> dict[str, dict[tuple[str, str], dict[str, _Segment]]]:
    """By fingerprint, then by recording and version, then by the id that their region had."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for one in annotations:
        wanted[one.task.fingerprint].add(one.task.recording_id)
    segments = {}
    for fingerprint, names in wanted.items():
        try:
            segments[fingerprint] = _read_segments(root, options, fingerprint, sorted(names))
        except StoreError as error:
            found.problems += [
                Problem("unknown task", one.task.number, "", str(error))
                for one in annotations
                if one.task.fingerprint == fingerprint
            ]
    return segments


def _read_segments(
    root: str, options: Mapping[str, Any] | None, fingerprint: str, recording_ids: Sequence[str]
) -> dict[tuple[str, str], dict[str, _Segment]]:
    snapshot = open_snapshot(root, options, None, fingerprint)
    found: dict[tuple[str, str], dict[str, _Segment]] = defaultdict(dict)
    with connect(root, options, snapshot.seq, fingerprint) as connection:
        create_review_views(connection, current_reviews(snapshot.store, snapshot.state))
        connection.register("wanted", pa.table({"recording_id": recording_ids}))
        for row in connection.execute(_SEGMENTS).fetchall():
            recording_id, version, segment_id, start_s, end_s, *labels, from_s, to_s, channel = row
            text, language, emotion, events = labels
            shown = Labels(text, language, emotion, tuple(events))
            region_id = controls.region_id(recording_id, segment_id)
            found[recording_id, version][region_id] = _Segment(
                region_id,
                Shown(segment_id, fingerprint, snapshot.seq, shown),
                *(start_s, end_s),
                Interval(recording_id, version, from_s, to_s, channel),
            )
    return found


def _import_annotation(
    store: Store,
    annotation: Annotation,
    known: Mapping[tuple[str, str], Mapping[str, _Segment]],
    found: Imported,
) -> None:
    task = annotation.task

    def problem(reason: Reason, segment: str, message: str) -> None:
        found.problems.append(Problem(reason, task.number, segment, message))

    segments = known.get((task.recording_id, task.version))
    if not segments:
        problem("unknown task", "", f"{task.recording_id}: this audio has no such labels here")
        return
    if annotation.n_foreign:
        problem("bad label", "", f"{annotation.n_foreign} results of controls that are not ours")
        if not any(controls.TEXT in region.said for region in annotation.regions):
            problem("bad label", "", "no text: of another configuration, so nothing was saved")
            return
    seen = set()
    for region in annotation.regions:
        segment = _segment_of(region, segments)
        if segment is None:
            problem("unknown segment", region.region_id, _where(region, "no segment is there"))
            continue
        seen.add(segment.region_id)
        name = segment.shown.segment_id
        if region.overlap(segment.start_s, segment.end_s) < SAME_SHARE:
            problem("moved", name, _where(region, "is another stretch than the segment's"))
            continue
        try:
            is_new = _save(store, annotation, segment, _review(annotation, region, segment))
        except ConfigError as error:
            problem("bad label", name, str(error))
        except ReviewConflict as conflict:
            problem("conflict", name, str(conflict))
        else:
            found.n_saved += is_new
            found.n_present += not is_new
    for missing in sorted(task.revisions.keys() - seen):
        name = f"{task.recording_id}-{missing}"
        problem("deleted", name, "the annotation has no region for it; nothing was saved")


def _where(region: Region, text: str) -> str:
    return f"the region at {region.start_s:.3f}-{region.end_s:.3f} s: {text}"


def _segment_of(region: Region, segments: Mapping[str, _Segment]) -> _Segment | None:
    """By the region's id, which Label Studio keeps as a rule; else by the stretch of audio."""
    if region.region_id in segments:
        return segments[region.region_id]
    of_channel = (
        one for one in segments.values() if one.interval.channel in (None, region.channel + 1)
    )
    near = [one for one in of_channel if region.overlap(one.start_s, one.end_s) >= SAME_SHARE]
    return max(near, key=lambda one: region.overlap(one.start_s, one.end_s), default=None)


def _review(annotation: Annotation, region: Region, segment: _Segment) -> Review:
    """Revision 0: _save finds the right one. Raises ConfigError for a label that is none."""
    shown, revisions = segment.shown.labels, annotation.task.revisions
    labels = region.labels(shown)
    check_labels(labels)
    said = next(iter(region.said.get(controls.VERDICT, [])), None)
    if said is not None and said not in _VERDICTS:
        raise ConfigError(f"verdict: {said!r} is none of {', '.join(_VERDICTS)}")
    digest = hashlib.blake2b(
        repr((labels, said, region.note, annotation.saved_at)).encode(), digest_size=8
    ).hexdigest()
    return Review(
        interval=segment.interval,
        revision=0,
        verdict=_VERDICTS[said] if said else "right" if labels == shown else "fixed",
        labels=labels,
        shown=segment.shown,
        reviewer=annotation.reviewer,
        saved_at=annotation.saved_at,
        request_id=f"{_prefix(annotation)}{digest}",
        note=region.note,
        spent_s=round(annotation.lead_s / max(len(annotation.regions), 1), 3),
        # A segment that the annotator added was not drawn by chance.
        sample="random" if annotation.task.sample and segment.region_id in revisions else "",
    )


def _prefix(annotation: Annotation) -> str:
    return f"label-studio:{annotation.key}:"


def _save(store: Store, annotation: Annotation, segment: _Segment, review: Review) -> bool:
    """Whether the review is new. Raises ReviewConflict if the annotator did not see the newest."""
    revisions = history(store, review.interval)
    if any(one.request_id == review.request_id for one in revisions):
        return False
    if not revisions:
        save(store, replace(review, revision=1))
        return True
    newest = revisions[-1]
    if _adds_nothing(newest, annotation, review):
        return False
    if not _may_follow(newest, annotation, segment) and not _is_same(newest, review):
        raise ReviewConflict(newest)
    # Drawn by chance once, it stays so.
    sample = review.sample or newest.sample
    save(store, replace(review, revision=newest.revision + 1, sample=sample))
    return True


def _may_follow(newest: Review, annotation: Annotation, segment: _Segment) -> bool:
    """Whether the annotator saw the newest review, made it, or it was withdrawn."""
    saw = annotation.task.revisions.get(segment.region_id, 0) == newest.revision
    return saw or newest.verdict == "withdrawn" or _is_of(newest, annotation)


def _is_of(review: Review, annotation: Annotation) -> bool:
    return review.request_id.startswith(_prefix(annotation))


def _adds_nothing(newest: Review, annotation: Annotation, review: Review) -> bool:
    """An older state of the same annotation, or what is said already."""
    is_older = _is_of(newest, annotation) and newest.saved_at >= review.saved_at
    return is_older or (_is_same(newest, review) and newest.sample in (review.sample, "random"))


def _is_same(one: Review, other: Review) -> bool:
    return (one.verdict, one.labels, one.note) == (other.verdict, other.labels, other.note)
