"""One run, from the configuration to committed tables: adopt, plan, label, publish, reconcile.

A round through the flow may lose recordings, because a worker that dies reports nothing. So after
each round the plan is compared with the ledger. Recordings without a row are labelled again, in
smaller and smaller row batches and at last one by one (see recovery, flow.chain, flow.alone).

Imports Ray and torch only when there is something to label. Knows nothing of screens.
"""

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from pipeline.archives.index import MemberIndex
from pipeline.config import RunConfig, label_precision
from pipeline.errors import RoundEnded, RunStopped
from pipeline.flow.gpus import check_gpus
from pipeline.manifest.read import check_manifest, read_manifest
from pipeline.models.files import resolve_model_of, resolve_vad
from pipeline.planning.ledger_index import count_missing, find_missing
from pipeline.planning.legs import Legs
from pipeline.planning.machine import Machine, this_machine
from pipeline.planning.plan import Plan, make_plan
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.one_process import fits_one_process, label_in_one_process
from pipeline.runs.other_labels import explain_other_labels, find_other_labels
from pipeline.runs.progress import DefaultLabels, Outcome, Phase, Progress, explain_default
from pipeline.runs.recovery import (
    CircuitBreaker,
    Step,
    explain_crashes,
    explain_store,
    next_step,
)
from pipeline.storage.patience import with_patience
from pipeline.storage.probe import check_local, writable
from pipeline.storage.redaction import public_uri
from pipeline.storage.store import Store, open_store
from pipeline.tables.coverage import n_recordings
from pipeline.tables.ledger import ledger_parts, versions_of_members
from pipeline.tables.publisher import Published, Publisher
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:
    from pipeline.flow.telemetry import Telemetry
    from pipeline.stages.build import BuildStages, Stages
    from pipeline.stages.receipt import Receipt, StageState

log = logging.getLogger(__name__)

_T = TypeVar("_T")

OnProgress = Callable[[Progress], None]


def prepare(config: RunConfig) -> tuple[Store, RunInfo]:
    """Check manifest and output, then find the models, which may be a download of 1 GB.

    Writes nothing to the store. Raises ManifestError, ModelError, StoreError.
    """
    store = _open_checked(config)
    return store, _describe(config)


def _open_checked(config: RunConfig) -> Store:
    store = open_store(config.output, config.storage_options)
    check_local(store)
    check_manifest(
        config.manifest,
        config.storage_options,
        config.allowed_roots,
        allow_http=config.allow_http,
        manifest_format=config.manifest_format,
    )
    return store


def _describe(config: RunConfig) -> RunInfo:
    """A new run: its id, its models and its fingerprint. Fetches the models if needed."""
    files = resolve_model_of(config)
    if config.label.backend == "onnxruntime":
        from pipeline.convert.backend import find_network  # imports torch

        find_network(files, label_precision(config))  # refused, or converted, before workers start
    if slow := explain_slow_bf16(config, this_machine()):
        log.warning(slow)
    _, vad = resolve_vad(config)
    started = datetime.now(UTC)
    return RunInfo(
        run_id=f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
        fingerprint=fingerprint(config, files.sha256, vad),
        model=public_uri(config.model),  # stored with every recording
        model_hash=files.sha256,
        vad=vad,
    )


def explain_slow_bf16(config: RunConfig, machine: Machine) -> str:
    """Why bf16 is a loss on the CPUs of this machine; "" if it is none, or a GPU labels."""
    on_cpu = config.ray.num_gpus == 0 and config.label.device != "cuda" and not config.ray.address
    if machine.bf16 or label_precision(config) != "bf16" or not on_cpu:
        return ""
    return (
        "label.precision is bf16, but this CPU has neither avx512_bf16 nor AMX: it takes six times "
        "as long as fp32; use fp32 or int8"
    )


def plan_run(config: RunConfig, run: RunInfo, store: Store | None = None) -> Plan:
    """The recordings of the manifest that the tables do not hold.

    With the `store` of the run, what its archives hold is kept beside the output for later plans.
    """
    output = store or open_store(config.output, config.storage_options)
    index = MemberIndex(
        config.storage_options,
        output,
        partial(versions_of_members, output),
        writes=store is not None,
    )
    return make_plan(
        read_manifest(
            config.manifest,
            config.storage_options,
            config.allowed_roots,
            allow_http=config.allow_http,
            manifest_format=config.manifest_format,
            index=index,
        ),
        ledger_parts(config.output, config.storage_options, fingerprint=run.fingerprint),
        run.fingerprint,
        config.storage_options,
        retry=config.retry,
        by_text=config.label.align == "text",
        max_attempts=config.max_attempts,
    )


def execute(
    config: RunConfig, on_progress: OnProgress, *, build: "BuildStages | None" = None
) -> Outcome:
    """Run to the end and return what was done. Committed rows stay, however the run ends.

    `build` makes the stages of the run; the default is stages.build.build_stages. Raises what
    `prepare` and `plan_run` raise, and RunStopped (see recovery).
    """
    check_gpus(config.ray)
    store = _open_checked(config)
    with writable(store, single_writer=config.single_writer) as store:
        return _Run(config, _describe(config), store, on_progress, build).execute()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        config: RunConfig,
        run: RunInfo,
        store: Store,
        on_progress: OnProgress,
        build: "BuildStages | None",
    ) -> None:
        self._config = config
        self._run = run
        self._store = store
        self._publisher = Publisher(store, run)
        self._on_progress = on_progress
        self._build = build
        self._progress = Progress(run.run_id)
        self._started = 0.0  # time.monotonic(), when labelling began
        self._start_up_s = 0.0  # until the first model was loaded
        self._first_label_s = 0.0  # until the first row was labelled
        self._stages_before: Mapping[str, StageState] = {}  # sums of the rounds before this one

    def execute(self) -> Outcome:
        adopted = self._publisher.publish()
        plan = plan_run(self._config, self._run, self._store)
        for note in plan.notes:
            log.warning("%s", note)
        self._progress.n_planned = plan.n_todo
        self._progress.seq = adopted.seq
        self._started = time.monotonic()
        if plan.n_todo:
            self._warn_of_other_labels()
            self._label(plan.legs)
        wall_s = time.monotonic() - self._started
        n_unfinished = self._n_missing(plan)
        # Readers see a new model only when it has labelled the whole corpus.
        published = self._publish_patiently(make_current=n_unfinished == 0)
        return Outcome(
            run=self._run,
            plan=plan,
            progress=self._progress,
            n_adopted=adopted.n_recordings,
            n_unfinished=n_unfinished,
            label_wall_s=wall_s,
            start_up_s=self._start_up_s,
            first_label_s=self._first_label_s,
            default=self._default_labels(published.n_uncovered),
        )

    def _warn_of_other_labels(self) -> None:
        others = find_other_labels(self._store, self._config, self._run)
        if text := explain_other_labels(others, self._run):
            log.warning(text)

    def _default_labels(self, n_uncovered: int) -> DefaultLabels | None:
        """What readers get, if it is not what this run labelled; says so in the log."""
        state, own = self._publisher.state, self._run.fingerprint
        if state.current_fingerprint in ("", own):
            return None
        default = DefaultLabels(
            fingerprint=state.current_fingerprint,
            n_recordings=n_recordings(state, state.current_fingerprint),
            n_uncovered=n_uncovered,
            n_of_run=n_recordings(state, own),
        )
        log.info(explain_default(default, public_uri(self._config.output), own))
        return default

    def _label(self, legs: Legs) -> None:
        """Label one leg of the plan after the other, so that only one is held in full."""
        is_local = fits_one_process(self._config, legs)
        self._begin(Phase.LOADING_MODELS if is_local else Phase.STARTING_RAY)
        # ray and torch take seconds to import; a finished corpus does not need them
        from pipeline.flow.environment import prepare_environment

        prepare_environment()  # before the first import of ray
        from pipeline.stages.build import build_stages

        stages = (self._build or build_stages)(self._config, self._run)
        breaker = CircuitBreaker(self._config.max_error_share, self._config.fail_fast_after)
        telemetry: Telemetry | None = None

        def label_round(todo: pa.Table, step: Step) -> str:
            from pipeline.flow.session import ray_session
            from pipeline.flow.telemetry import Telemetry

            nonlocal telemetry
            # A new session for each round frees what workers of a failed round held, e.g. a GPU.
            self._begin(Phase.STARTING_RAY)
            with ray_session(self._config.ray):
                telemetry = telemetry or Telemetry(self._run.run_id)
                self._begin(Phase.LOADING_MODELS)
                return self._drain(self._start_round(todo, step, stages), breaker, telemetry)

        def label_locally(todo: pa.Table) -> str:
            self._begin(Phase.LOADING_MODELS)
            receipts = label_in_one_process(todo, self._config, self._on_stages, stages=stages)
            return self._drain(receipts, breaker, None)

        for leg in legs:
            self._label_leg(leg, label_round, label_locally if is_local else None)

    def _begin(self, phase: Phase) -> None:
        """Report what begins now; the stages count from zero again."""
        self._stages_before = self._progress.stages
        self._progress.phase = phase
        self._progress.waits_for = ""
        self._on_progress(self._progress)

    def _label_leg(
        self,
        todo: pa.Table,
        label_round: "Callable[[pa.Table, Step], str]",
        label_locally: "Callable[[pa.Table], str] | None",
    ) -> None:
        """Label in rounds until every recording has a row (see recovery.next_step).

        With `label_locally` the first round is one process without Ray.
        """
        n_rounds = 0
        step: Step = "again"
        while step != "done":
            if label_locally is not None and n_rounds == 0:
                reason = label_locally(todo)
            else:
                reason = label_round(todo, step)
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

    def _on_stages(self, stages: "Mapping[str, StageState]", waits_for: str) -> None:
        self._progress.stages = {
            name: _sum_of(self._stages_before.get(name), state) for name, state in stages.items()
        }
        self._progress.waits_for = waits_for
        elapsed_s = time.monotonic() - self._started
        if "label" in stages and stages["label"].worker_s:
            self._start_up_s = self._start_up_s or elapsed_s
        if "label" in stages and stages["label"].n_rows:
            self._progress.phase = Phase.LABELLING
            self._progress.first_labels = self._progress.first_labels or self._progress.stages
            self._first_label_s = self._first_label_s or elapsed_s
        self._on_progress(self._progress)

    def _drain(
        self,
        receipts: "Generator[Receipt]",
        breaker: CircuitBreaker,
        telemetry: "Telemetry | None",
    ) -> str:
        """Count and publish the results of a round. Returns why it ended early, or ""."""
        published_s = time.monotonic()
        try:
            for receipt in receipts:
                if receipt.fault:
                    raise RunStopped(self._explain_store(receipt.fault))
                self._progress.add(receipt)
                if time.monotonic() - published_s > self._config.publish_every_s:
                    self._publish_or_warn()
                    published_s = time.monotonic()
                self._report(telemetry)
                if fault := breaker.add(receipt.n_recordings, receipt.errors, receipt.example):
                    raise RunStopped(fault)
        except RoundEnded as ended:
            reason = str(ended)
        except BaseException:  # also Ctrl-C: commit finished rows, but do not wait for the store
            self._publish_or_warn()
            self._report(telemetry)
            raise
        else:
            reason = ""
        finally:
            receipts.close()
        self._publish_patiently()
        self._report(telemetry)
        return reason

    def _report(self, telemetry: "Telemetry | None") -> None:
        self._on_progress(self._progress)
        if telemetry is not None:  # Prometheus metrics go through Ray
            telemetry.update(self._progress)

    def _publish_or_warn(self) -> None:
        """Commit. If the store fails, log a warning: a later call commits the same bundles."""
        try:
            self._progress.seq = self._publisher.publish().seq
        except OSError as error:
            log.warning("cannot commit now, will try again: %s", error)

    def _publish_patiently(self, *, make_current: bool = False) -> Published:
        """Commit. Waits for a store that is away; raises RunStopped if it stays away."""
        publish = partial(self._publisher.publish, make_current=make_current)
        published = self._patiently(publish)
        self._progress.seq = published.seq
        return published

    def _patiently(self, call: Callable[[], _T]) -> _T:
        try:
            return with_patience(call, self._config.store_patience_s)
        except OSError as error:
            raise RunStopped(self._explain_store(f"{type(error).__name__}: {error}")) from error

    def _explain_store(self, reason: str) -> str:
        config = self._config
        return explain_store(public_uri(config.output), reason, config.store_patience_s)

    def _missing(self, todo: pa.Table) -> pa.Table:
        return self._patiently(lambda: find_missing(todo, self._ledger()))

    def _n_missing(self, plan: Plan) -> int:
        if not plan.n_todo:
            return 0
        return self._patiently(lambda: count_missing(plan.legs, self._ledger()))

    def _ledger(self) -> Iterator[pa.Table]:
        config = self._config
        return ledger_parts(
            config.output, config.storage_options, fingerprint=self._run.fingerprint
        )


def _sum_of(before: "StageState | None", state: "StageState") -> "StageState":
    """The figures of a stage over the rounds before and this one."""
    if before is None:
        return state
    return replace(
        state,
        n_rows=before.n_rows + state.n_rows,
        busy_s=before.busy_s + state.busy_s,
        worker_s=before.worker_s + state.worker_s,
    )
