"""The JSON export of Label Studio, as annotations and their regions. Knows its format; no store.

https://labelstud.io/guide/export.html#Label-Studio-JSON-format-of-annotated-tasks
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.export import label_studio as controls
from pipeline.tables.reviews import Labels

_KNOWN = (
    *(controls.REGION, controls.TEXT, controls.LANGUAGE, controls.EMOTION, controls.SOUNDS),
    controls.VERDICT,
)
_VALUES = {"labels": "labels", "textarea": "text", "choices": "choices"}  # by type of a result


@dataclass(slots=True)
class Region:
    """An interval of an annotation, with what each control of the configuration says of it."""

    region_id: str
    start_s: float
    end_s: float
    channel: int = 0  # from 0
    said: dict[str, list[str]] = field(default_factory=dict)  # by the name of the control
    note: str = ""

    def overlap(self, start_s: float, end_s: float) -> float:
        """The share of the joint stretch that both have in common; below 0: they are apart."""
        common = min(self.end_s, end_s) - max(self.start_s, start_s)
        return common / max(max(self.end_s, end_s) - min(self.start_s, start_s), 1e-9)

    def labels(self, shown: Labels) -> Labels:
        """A control without a result is empty; but the model's language and emotion stay."""
        text = " ".join(self.said.get(controls.TEXT, [])).strip()
        events = tuple(self.said.get(controls.SOUNDS, []))
        return Labels(
            text=shown.text if text == shown.text.strip() else text,
            language=(self.said.get(controls.LANGUAGE) or [shown.language])[0],
            emotion=(self.said.get(controls.EMOTION) or [shown.emotion])[0],
            events=shown.events if {*events} == {*shown.events} else events,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What the export of tasks wrote into `data` (see label_studio.py), and the task's number."""

    number: str
    recording_id: str
    version: str
    fingerprint: str
    seq: int
    sample: str
    revisions: Mapping[str, int]  # of the review that was shown, by region id


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one person said of one task."""

    task: Task
    key: str  # the same each time the annotation is exported
    reviewer: str
    saved_at: datetime
    lead_s: float  # time spent on the task
    regions: Sequence[Region]
    n_foreign: int  # results of controls that are not of our configuration


@dataclass(slots=True)
class Annotations:
    """An export that was read."""

    n_tasks: int = 0
    n_without: int = 0  # tasks without an annotation
    n_cancelled: int = 0  # annotations that were skipped by their author
    foreign_tasks: list[str] = field(default_factory=list)  # numbers of tasks that are not ours
    annotations: list[Annotation] = field(default_factory=list)  # by time


def read_annotations(path: Path) -> Annotations:
    """Raises ConfigError for a file that is no such export."""
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    is_export = isinstance(tasks, list) and all(
        isinstance(task, dict) and isinstance(task.get("annotations"), list) for task in tasks
    )
    if not is_export or not tasks:
        raise ConfigError(
            f"{path}: holds no list of tasks with annotations; export the project from Label "
            "Studio as JSON (JSON-MIN and CSV leave out what a review needs)"
        )
    try:
        return _read(tasks)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is not as Label Studio writes it ({type(error).__name__}: {error})"
        ) from error


def _read(tasks: Sequence[Mapping[str, Any]]) -> Annotations:
    found = Annotations(len(tasks))
    for task in tasks:
        found.n_without += not task["annotations"]
        ours = _task(task)
        if ours is None:
            found.foreign_tasks.append(str(task.get("id")))
            continue
        for one in task["annotations"]:
            if one.get("was_cancelled"):
                found.n_cancelled += 1
            else:
                found.annotations.append(_annotation(ours, task, one))
    found.annotations.sort(key=lambda one: (one.saved_at, one.key))
    return found


def _task(task: Mapping[str, Any]) -> Task | None:
    data = task.get("data") or {}
    if not {"recording_id", "version", "fingerprint", "seq", "segments"} <= data.keys():
        return None
    return Task(
        number=str(task.get("id")),
        recording_id=str(data["recording_id"]),
        version=str(data["version"]),
        fingerprint=str(data["fingerprint"]),
        seq=int(data["seq"]),
        sample="random" if data.get("sample") == "random" else "",
        revisions={name: int(revision) for name, revision in data["segments"].items()},
    )


def _annotation(task: Task, whole: Mapping[str, Any], one: Mapping[str, Any]) -> Annotation:
    results = [result for result in one["result"] if result.get("from_name") in _KNOWN]
    by = one.get("completed_by")
    person = by.get("email") or by.get("id") if isinstance(by, dict) else by
    when = one.get("updated_at") or one["created_at"]
    saved_at = datetime.fromisoformat(when)
    return Annotation(
        task=task,
        key=str(one.get("unique_id") or f"{whole.get('project')}-{one['id']}"),
        reviewer=str(person) if "@" in str(person) else f"Label Studio user {person}",
        saved_at=saved_at if saved_at.tzinfo else saved_at.replace(tzinfo=UTC),
        lead_s=float(one.get("lead_time") or 0),
        regions=[*_regions(results)],
        n_foreign=len(one["result"]) - len(results),
    )


def _region(name: str, value: Mapping[str, Any]) -> Region:
    channel = int(value.get("channel") or 0)
    return Region(name, float(value["start"]), float(value["end"]), channel)


def _regions(results: Sequence[Mapping[str, Any]]) -> Iterator[Region]:
    """Regions by their id: each result of a region repeats its interval."""
    found: dict[str, Region] = {}
    for result in results:
        value = result["value"]
        name = str(result["id"]).partition("#")[0]
        region = found.setdefault(name, _region(name, value))
        said = value.get(_VALUES.get(result["type"], "")) or []
        region.said[result["from_name"]] = [said] if isinstance(said, str) else [*said]
        notes = (result.get("meta") or {}).get("text") or []
        region.note = region.note or " ".join([notes] if isinstance(notes, str) else notes)
    yield from found.values()
