"""A run on three nodes of one machine, one of which dies: python -m tests.lose_node ROOT MANIFEST.

A process of its own, because the settings that make Ray notice within seconds are read at import.
"""

import os
import sys

os.environ |= {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_AUTH_MODE": "disabled",
}

from pipeline import run, watch
from tests.demo import demo_config

watch.STALLED_S = 8.0
N_BEFORE = 10  # recordings that are through when the node dies


def main(root: str, manifest: str) -> None:
    from ray.cluster_utils import Cluster  # after pipeline.flow has set Ray's environment

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3,
            "num_gpus": 0,
            "object_store_memory": 300 << 20,
            "include_dashboard": False,
        },
    )
    nodes = [
        cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=200 << 20) for _ in range(2)
    ]
    cluster.wait_for_nodes()

    def lose_node(progress: run.Progress) -> None:
        if progress.n_recordings >= N_BEFORE and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()
            sys.stdout.write(f"node lost after {progress.n_recordings} recordings\n")

    config = demo_config(
        root,
        *(f"manifest={manifest}", "vad=none", f"ray.address={cluster.address}"),
        *("ray.label_workers=2", "ray.label_cpus=0", "ray.num_gpus=1", "ray.batch_audio_s=5"),
        "label.device=cpu",
    )
    try:
        outcome = run.execute(config, lose_node)
        sys.exit(1 if outcome.n_unfinished or nodes else 0)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
