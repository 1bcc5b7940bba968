"""One run, from the configuration to committed tables: adopt, plan, label, publish, reconcile.

A round through the flow may lose recordings, because a worker that dies reports nothing. So after
each round the plan is compared with the ledger. Recordings without a row are labelled again, in
smaller and smaller row batches and at last one by one (see recovery, flow.chain, flow.alone).

Imports Ray and torch only when there is something to label. Knows nothing of screens.
"""

import logging
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.errors import RoundEnded, RunStopped
from pipeline.manifest.read import read_manifest
from pipeline.models.files import resolve_model, resolve_vad
from pipeline.planning.ledger_index import find_missing
from pipeline.planning.plan import Plan, make_plan
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.progress import Outcome, Phase, Progress
from pipeline.runs.recovery import CircuitBreaker, Step, explain_crashes, next_step
from pipeline.storage.probe import writable
from pipeline.storage.store import Store, open_store
from pipeline.tables.ledger import ledger_parts
from pipeline.tables.publisher import Publisher
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:
    from pipeline.flow.monitor import StageState
    from pipeline.flow.receipts import Receipt
    from pipeline.flow.telemetry import Telemetry
    from pipeline.stages.build import BuildStages, Stages

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


def prepare(config: RunConfig) -> tuple[Store, RunInfo]:
    """Open the store and find the models. Raises ModelError, StoreError."""
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


def plan_run(config: RunConfig, run: RunInfo) -> Plan:
    """The recordings of the manifest that the tables do not hold."""
    return make_plan(
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


def execute(
    config: RunConfig, on_progress: OnProgress, *, build: "BuildStages | None" = None
) -> Outcome:
    """Run to the end and return what was done. Committed rows stay, however the run ends.

    `build` makes the stages of the run; the default is stages.build.build_stages. Raises what
    `prepare` and `plan_run` raise, and RunStopped (see recovery).
    """
    store, run = prepare(config)
    with writable(store, single_writer=config.single_writer) as store:
        return _Run(config, run, Publisher(store, run), on_progress, build).execute()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        config: RunConfig,
        run: RunInfo,
        publisher: Publisher,
        on_progress: OnProgress,
        build: "BuildStages | None",
    ) -> None:
        self._config = config
        self._run = run
        self._publisher = publisher
        self._on_progress = on_progress
        self._build = build
        self._progress = Progress(run.run_id)

    def execute(self) -> Outcome:
        adopted = self._publisher.publish()
        plan = plan_run(self._config, self._run)
        self._progress.n_planned = plan.todo.num_rows
        self._progress.seq = adopted.seq
        started = time.monotonic()
        if plan.todo.num_rows:
            self._on_progress(self._progress)
            self._label(plan.todo)
        wall_s = time.monotonic() - started
        n_unfinished = self._missing(plan.todo).num_rows
        # Readers see a new model only when it has labelled the whole corpus.
        self._progress.seq = self._publisher.publish(make_current=n_unfinished == 0).seq
        return Outcome(
            run=self._run,
            plan=plan,
            progress=self._progress,
            n_adopted=adopted.n_recordings,
            n_unfinished=n_unfinished,
            label_wall_s=wall_s,
        )

    def _label(self, todo: pa.Table) -> None:
        """Label in rounds until every recording has a row (see recovery.next_step)."""
        # ray and torch take seconds to import; a finished corpus does not need them
        from pipeline.flow.environment import prepare_environment

        prepare_environment()  # before the first import of ray
        from pipeline.flow.session import ray_session
        from pipeline.flow.telemetry import Telemetry
        from pipeline.stages.build import build_stages

        stages = (self._build or build_stages)(self._config, self._run)
        breaker = CircuitBreaker(self._config.max_error_share, self._config.fail_fast_after)
        telemetry = None
        n_rounds = 0
        step: Step = "again"
        while step != "done":
            # A new session for each round frees what workers of a failed round held, e.g. a GPU.
            with ray_session(self._config.ray):
                telemetry = telemetry or Telemetry(self._run.run_id)
                self._progress.phase = Phase.LOADING_MODELS
                reason = self._drain(self._start_round(todo, step, stages), breaker, telemetry)
            if step == "alone":
                return
            n_rounds += 1
            left = self._missing(todo)
            step = next_step(left.num_rows, todo.num_rows, n_rounds)
            if step == "stop":
                raise RunStopped(explain_crashes(left.num_rows, n_rounds, reason))
            todo = left

    def _start_round(self, todo: pa.Table, step: "Step", stages: "Stages") -> "Generator[Receipt]":
        from pipeline.flow.alone import label_alone
        from pipeline.flow.chain import label

        if step == "alone":
            return label_alone(todo, self._config, self._run, stages=stages)
        return label(
            todo,
            self._config,
            self._run,
            self._on_stages,
            isolate=step == "isolated",
            stages=stages,
        )

    def _on_stages(self, stages: "Mapping[str, StageState]") -> None:
        self._progress.stages = stages
        if "label" in stages and stages["label"].n_rows:
            self._progress.phase = Phase.LABELLING
        self._on_progress(self._progress)

    def _drain(
        self,
        receipts: "Generator[Receipt]",
        breaker: CircuitBreaker,
        telemetry: "Telemetry",
    ) -> str:
        """Count and publish the results of a round. Returns why it ended early, or ""."""
        published_s = time.monotonic()
        try:
            for receipt in receipts:
                self._progress.add(receipt)
                if time.monotonic() - published_s > self._config.publish_every_s:
                    self._publish_or_warn()
                    published_s = time.monotonic()
                self._report(telemetry)
                if fault := breaker.add(receipt.n_recordings, receipt.errors, receipt.example):
                    raise RunStopped(fault)
        except RoundEnded as ended:
            return str(ended)
        finally:  # commit finished rows, also after Ctrl-C or a crash
            self._progress.seq = self._publisher.publish().seq
            self._report(telemetry)
            receipts.close()
        return ""

    def _report(self, telemetry: "Telemetry") -> None:
        self._on_progress(self._progress)
        telemetry.update(self._progress)

    def _publish_or_warn(self) -> None:
        """Commit. If the store fails, log a warning: a later call commits the same bundles."""
        try:
            self._progress.seq = self._publisher.publish().seq
        except OSError as error:
            log.warning("cannot commit now, will try again: %s", error)

    def _missing(self, todo: pa.Table) -> pa.Table:
        config = self._config
        held = ledger_parts(
            config.output, config.storage_options, fingerprint=self._run.fingerprint
        )
        return find_missing(todo, held)
