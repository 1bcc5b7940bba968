"""One run, from the configuration to committed tables: adopt, plan, label, publish, reconcile.

A pass through the flow may lose recordings: their workers died, and a worker that dies tells
nobody what of. So after each pass the plan is compared with the ledger, and what has no row goes
through again, less and less of it together, in the end one by one (see recovery, flow, alone).

Imports Ray and torch only when there is something to label.
"""

import hashlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.config import AudioConfig, RunConfig, label_precision
from pipeline.manifest.read import read_manifest
from pipeline.models.files import resolve_model, resolve_vad
from pipeline.planning import plan as planning
from pipeline.planning.plan import Plan
from pipeline.runs.recovery import (
    Breaker,
    PassEnded,
    RunStopped,
    Step,
    explain_deaths,
    next_step,
)
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage.probe import writable
from pipeline.storage.store import Store, open_store
from pipeline.tables.publisher import Publisher, RunInfo
from pipeline.tables.snapshots import ledger_parts

if TYPE_CHECKING:
    from pipeline.flow.chain import Receipt
    from pipeline.flow.watch import StageState

log = logging.getLogger(__name__)

# Raised by hand when code that shapes labels changes: front end, VAD, segmenting or decoding.
_CODE_VERSION = 1


@dataclass(slots=True)
class Progress:
    """Where a run is. `on_progress` sees the same object again and again."""

    run_id: str
    phase: str = "starting Ray"  # then "loading models", then "labelling"
    n_planned: int = 0
    n_recordings: int = 0
    n_errors: int = 0
    n_segments: int = 0
    audio_s: float = 0.0
    seq: int = 0  # of the last commit
    errors: Counter[str] = field(default_factory=Counter)  # by error_type
    stages: Mapping[str, "StageState"] = field(default_factory=dict)  # in the order of the corridor

    def add(self, receipt: "Receipt") -> None:
        """One more bundle."""
        self.n_recordings += receipt.n_recordings
        self.n_errors += receipt.n_errors
        self.errors.update(receipt.errors)
        self.n_segments += receipt.n_segments
        self.audio_s += receipt.audio_s


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
    """Hash of everything that shapes a label; batch sizes, devices, compilers and places do not.

    Where the model lies is not in it either: the same weights from a hub or a directory are one.
    """
    limits = {name: getattr(config.audio, name) for name in AudioConfig.model_fields}
    label = config.label.model_dump(exclude={"batch_s", "compile", "device"})
    label["precision"] = label_precision(config)
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
        read_manifest(
            config.manifest,
            config.storage_options,
            config.allowed_roots,
            allow_http=config.allow_http,
        ),
        ledger_parts(config.output, config.storage_options, fingerprint=run.fingerprint),
        run.fingerprint,
        config.storage_options,
        retry=config.retry,
        max_attempts=config.max_attempts,
    )


def execute(config: RunConfig, on_progress: Callable[[Progress], None]) -> Outcome:
    """Run to the end and give the account of it. What was committed stays, whatever happens.

    Raises what `prepare` and `make_plan` raise, and RunStopped (see recovery).
    """
    store, run = prepare(config)
    with writable(store, single_writer=config.single_writer) as store:
        return _execute(config, store, run, on_progress)


def _execute(
    config: RunConfig, store: Store, run: RunInfo, on_progress: Callable[[Progress], None]
) -> Outcome:
    publisher = Publisher(store, run)
    adopted = publisher.publish()
    plan = make_plan(config, run)
    progress = Progress(run.run_id, n_planned=plan.todo.num_rows, seq=adopted.seq)
    started = time.monotonic()
    if plan.todo.num_rows:
        on_progress(progress)
        _label(config, publisher, run, plan, progress, on_progress)
    wall_s = time.monotonic() - started
    n_unfinished = _missing(plan.todo, config, run).num_rows
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


def _missing(todo: pa.Table, config: RunConfig, run: RunInfo) -> pa.Table:
    held = ledger_parts(config.output, config.storage_options, fingerprint=run.fingerprint)
    return planning.find_missing(todo, held)


def _label(
    config: RunConfig,
    publisher: Publisher,
    run: RunInfo,
    plan: Plan,
    progress: Progress,
    on_progress: Callable[[Progress], None],
) -> None:
    """Passes over what has no row yet, until all have one (see recovery.next_step)."""
    # ray and torch take seconds to import; a finished corpus needs none
    from pipeline.flow import chain as flow
    from pipeline.flow.alone import label_alone
    from pipeline.flow.telemetry import Telemetry

    def on_stages(stages: "Mapping[str, StageState]") -> None:
        progress.stages = stages
        if stages and stages["LabelSegments"].n_rows:
            progress.phase = "labelling"
        on_progress(progress)

    telemetry = None
    breaker = Breaker(config.max_error_share, config.fail_fast_after)
    todo, n_passes = plan.todo, 0
    step: Step = "again"
    while step != "done":
        # A session per pass: what a failed one left in an actor's hands, a GPU say, is free then.
        with flow.ray_session(config.ray):
            telemetry = telemetry or Telemetry(run.run_id)
            progress.phase = "loading models"
            if step == "alone":
                receipts = label_alone(todo, config, run)
            else:
                isolate = step == "isolated"
                receipts = flow.label(todo, config, run, on_stages, isolate=isolate)

            def tell(telemetry: Telemetry = telemetry) -> None:
                on_progress(progress)
                telemetry.update(progress)

            reason = _drain(receipts, config, publisher, breaker, progress, tell)
        if step == "alone":
            return
        n_passes += 1
        left = _missing(todo, config, run)
        step = next_step(left.num_rows, todo.num_rows, n_passes)
        if step == "stop":
            raise RunStopped(explain_deaths(left.num_rows, n_passes, reason))
        todo = left


def _drain(
    receipts: Generator["Receipt"],
    config: RunConfig,
    publisher: Publisher,
    breaker: Breaker,
    progress: Progress,
    tell: Callable[[], None],
) -> str:
    """Count and publish what comes out of a pass; why it ended early, or ""."""
    published_s = time.monotonic()
    try:
        for receipt in receipts:
            progress.add(receipt)
            if time.monotonic() - published_s > config.publish_every_s:
                progress.seq = _publish_if_it_goes(publisher, progress.seq)
                published_s = time.monotonic()
            tell()
            if fault := breaker.add(receipt.n_recordings, receipt.errors, receipt.example):
                raise RunStopped(fault)
    except PassEnded as ended:
        return str(ended)
    finally:  # after Ctrl-C or a dead worker, too: what is finished is committed
        progress.seq = publisher.publish().seq
        tell()
        receipts.close()
    return ""


def _publish_if_it_goes(publisher: Publisher, seq: int) -> int:
    """The newest commit. A store that is away for a while costs nothing yet: the bundles wait."""
    try:
        return publisher.publish().seq
    except OSError as error:
        log.warning("cannot commit now, will try again: %s", error)
        return seq
