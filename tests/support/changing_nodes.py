"""A run whose nodes change: python -m tests.support.changing_nodes ROOT MANIFEST NOTES.

A node with CPUs decodes and segments; a node with a simulated GPU labels. After some recordings a
second GPU node joins. When that one has labelled too, the first is lost in the middle of a call.
The file NOTES gets one line per call and per change of nodes, which the test checks.

It is a process of its own, because Ray reads the settings that make it notice a lost node within
seconds when it is imported.
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

N_FREE = 2  # calls of a node before it waits for the change of nodes


def note(notes: Path, line: str) -> None:
    """Append a line; short lines are written whole, from any process."""
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
    """Labels, but waits in its third call until the nodes have changed."""

    def __init__(self, model: Transcriber, notes: Path) -> None:
        self._model = model
        self._notes = notes
        self._n_calls = 0
        self.vocabulary = model.vocabulary

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        note(self._notes, f"label {_node()}")
        self._n_calls += 1
        if self._n_calls > N_FREE:
            # Processes of a lost node run for a moment longer and must not finish the call.
            wait_until(lambda: _lost_node(self._notes) not in ("", _node()))
        return self._model.transcribe(clips, languages, use_itn)


def load_vad(notes: Path, load: Callable[[str], Vad], device: str) -> _NotedVad:
    return _NotedVad(load(device), notes)


def load_model(notes: Path, load: Callable[[], Transcriber]) -> _NotedModel:
    return _NotedModel(load(), notes)


def build(notes: Path, config: RunConfig, run: RunInfo) -> Stages:
    """The real stages, which note each call."""
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
    """Add a second node with a GPU; when both have labelled, remove `early`."""

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
