"""One run, from the configuration to committed tables: adopt, plan, label, publish, reconcile.

Imports Ray and torch only when there is something to label.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline import planning
from pipeline.config import AudioConfig, RunConfig
from pipeline.manifest import read_manifest
from pipeline.model_files import resolve_model, resolve_vad
from pipeline.planning import Plan
from pipeline.publish import Publisher, RunInfo
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage import Store, open_store, probe
from pipeline.tables import ledger

# Raised by hand when code that shapes labels changes: front end, VAD, segmenting or decoding.
_CODE_VERSION = 1


@dataclass(slots=True)
class Progress:
    """Where a run is. `on_progress` sees the same object again and again."""

    phase: str = "starting Ray"  # then "loading models", then "labelling"
    n_planned: int = 0
    n_recordings: int = 0
    n_errors: int = 0
    n_segments: int = 0
    audio_s: float = 0.0
    seq: int = 0  # of the last commit
    stage_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did."""

    run: RunInfo
    plan: Plan
    progress: Progress
    n_adopted: int  # recordings of an earlier run that died before it could commit them
    n_unfinished: int  # planned, but without a row after the run; the next run takes them up
    label_wall_s: float  # from the first row to the last, starting Ray and loading models included


def prepare(config: RunConfig) -> tuple[Store, RunInfo]:
    """Resolve the models and check the store. Raises ModelError, StoreError."""
    store = open_store(config.output, config.storage_options)
    files = resolve_model(
        config.model,
        hub=config.hub,
        revision=config.model_revision,
        options=config.storage_options,
    )
    _, vad = resolve_vad(config)
    started = datetime.now(UTC)
    run = RunInfo(
        run_id=f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
        fingerprint=fingerprint(config, files.sha256, vad),
        model=config.model,
        model_hash=files.sha256,
        vad=vad,
    )
    return store, run


def fingerprint(config: RunConfig, model_hash: str, vad: str) -> str:
    """Hash of everything that shapes a label; batch sizes, devices and places do not.

    Where the model lies is not in it either: the same weights from a hub or a directory are one.
    """
    limits = {name: getattr(config.audio, name) for name in AudioConfig.model_fields}
    label = config.label.model_dump(exclude={"batch_s", "device"})
    parts = {
        "schema": SCHEMA_VERSION,
        "code": _CODE_VERSION,
        "model": model_hash,
        "vad": vad,
        "audio": limits,
        "segment": config.segment.model_dump(),
        "label": label,
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def make_plan(config: RunConfig, run: RunInfo) -> Plan:
    """What the manifest asks for and the tables do not have yet."""
    return planning.make_plan(
        read_manifest(config.manifest, config.storage_options),
        ledger(config.output, config.storage_options, fingerprint=run.fingerprint),
        run.fingerprint,
        config.storage_options,
    )


def execute(config: RunConfig, on_progress: Callable[[Progress], None]) -> Outcome:
    """Run to the end and give the account of it. What was committed stays, whatever happens."""
    store, run = prepare(config)
    probe(store)
    publisher = Publisher(store, run)
    adopted = publisher.publish()
    plan = make_plan(config, run)
    progress = Progress(n_planned=plan.todo.num_rows, seq=adopted.seq)
    started = time.monotonic()
    if plan.todo.num_rows:
        on_progress(progress)
        _label(config, publisher, run, plan, progress, on_progress)
    wall_s = time.monotonic() - started
    n_unfinished = planning.count_missing(
        plan.todo, ledger(config.output, config.storage_options, fingerprint=run.fingerprint)
    )
    # Readers move to a new model when all of the corpus is labelled with it, not before.
    progress.seq = publisher.publish(make_current=n_unfinished == 0).seq
    return Outcome(
        run=run,
        plan=plan,
        progress=progress,
        n_adopted=adopted.n_recordings,
        n_unfinished=n_unfinished,
        label_wall_s=wall_s,
    )


def _label(
    config: RunConfig,
    publisher: Publisher,
    run: RunInfo,
    plan: Plan,
    progress: Progress,
    on_progress: Callable[[Progress], None],
) -> None:
    from pipeline import flow  # ray and torch take seconds to import; a finished corpus needs none

    def on_stage_rows(rows: Mapping[str, int]) -> None:
        progress.stage_rows = rows
        if rows.get("LabelSegments"):
            progress.phase = "labelling"
        on_progress(progress)

    with flow.ray_session(config.ray):
        progress.phase = "loading models"
        published_s = time.monotonic()
        try:
            for receipt in flow.label(plan.todo, config, run, on_stage_rows):
                progress.n_recordings += receipt.n_recordings
                progress.n_errors += receipt.n_errors
                progress.n_segments += receipt.n_segments
                progress.audio_s += receipt.audio_s
                if time.monotonic() - published_s > config.publish_every_s:
                    progress.seq = publisher.publish().seq
                    published_s = time.monotonic()
                on_progress(progress)
        finally:  # after Ctrl-C or a dead worker, too: what is finished is committed
            progress.seq = publisher.publish().seq
