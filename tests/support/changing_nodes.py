"""A run on nodes that come and go: python -m tests.support.changing_nodes ROOT MANIFEST NOTES.

A node with CPUs decodes and segments; one with a (make-believe) GPU labels. When some of it is
labelled a second GPU node joins, and when that has labelled too, the first goes down in the middle
of a call. NOTES gets a line per call and what happened when, for the test to judge.

A process of its own, because the settings that make Ray notice within seconds are read at import.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_AUTH_MODE": "disabled",
}

import numpy as np

from pipeline.config import RunConfig
from pipeline.flow.environment import prepare_environment
from pipeline.models.sensevoice.decoding import ClipOutput
from pipeline.models.sensevoice.model import Clip, Transcriber
from pipeline.models.vad.load import Vad
from pipeline.schema import Segment
from pipeline.stages.build import Stages, build_stages
from pipeline.tables.run_records import RunInfo
from tests.support.demo import demo_config, execute

N_FREE = 2  # calls of a node before it waits for the change to be over


def note(notes: Path, line: str) -> None:
    """One more line; short ones are appended whole, from any process."""
    with notes.open("a") as file:
        file.write(f"{line}\n")


def read_notes(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


def _lost_node(notes: Path) -> str:
    return next((line.split()[1] for line in read_notes(notes) if line.startswith("lost ")), "")


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


class _NotedVad:
    def __init__(self, vad: Vad, notes: Path) -> None:
        self._vad = vad
        self._notes = notes

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[Any]
    ) -> list[list[Segment]]:
        note(self._notes, f"segment {_node()}")
        return self._vad.find_speech(waveforms, log_mels)


class _NotedModel:
    """Labels, but holds on in its third call until the nodes have changed."""

    def __init__(self, model: Transcriber, notes: Path) -> None:
        self._model = model
        self._notes = notes
        self._n_calls = 0
        self.vocabulary = model.vocabulary

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: bool
    ) -> list[ClipOutput]:
        note(self._notes, f"label {_node()}")
        self._n_calls += 1
        if self._n_calls > N_FREE:
            # The processes of a lost node live on for a moment, and must not get out of the call.
            wait_until(lambda: _lost_node(self._notes) not in ("", _node()))
        return self._model.transcribe(clips, languages, use_itn)


def load_vad(notes: Path, load: Callable[[str], Vad], device: str) -> _NotedVad:
    return _NotedVad(load(device), notes)


def load_model(notes: Path, load: Callable[[], Transcriber]) -> _NotedModel:
    return _NotedModel(load(), notes)


def build(notes: Path, config: RunConfig, run: RunInfo) -> Stages:
    """The real stages, with notes of who was called."""
    real = build_stages(config, run)
    return replace(
        real,
        load_vad=partial(load_vad, notes, real.load_vad),
        load_model=partial(load_model, notes, real.load_model),
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def change(cluster: Any, early: Any, notes: Path) -> None:
    """Add a node with a GPU beside `early`, and when both have labelled, take `early` away."""

    def busy(node: Any) -> Callable[[], bool]:
        return lambda: read_notes(notes).count(f"label {node.node_id}") > N_FREE

    wait_until(busy(early))
    late = add_gpu_node(cluster)
    note(notes, f"joined {late.node_id}")
    wait_until(busy(late))
    cluster.remove_node(early, allow_graceful=False)
    note(notes, f"lost {early.node_id}")


def add_gpu_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=0, num_gpus=1, object_store_memory=200 << 20)


def main(root: str, manifest: str, notes: Path) -> None:
    prepare_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3,
            "num_gpus": 0,
            "object_store_memory": 300 << 20,
            "include_dashboard": False,
        },
    )
    config = demo_config(
        root,
        *(f"manifest={manifest}", "vad=none", f"ray.address={cluster.address}"),
        *("ray.label_workers=2", "ray.label_cpus=0", "ray.num_gpus=1", "ray.batch_audio_s=5"),
        "label.device=cpu",
    )
    early = add_gpu_node(cluster)
    try:
        with ThreadPoolExecutor(1) as other:  # Ray starts nodes in the main thread only
            outcome = other.submit(execute, config, partial(build, notes))
            change(cluster, early, notes)
            sys.exit(1 if outcome.result().n_unfinished else 0)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    from tests.support import changing_nodes  # under the name by which workers find its parts

    changing_nodes.main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
