"""A run in a Ray of its own with one GPU that exists only in Ray's books.

python -m tests.support.one_gpu FOLDER: the pool of the model has one worker, which is killed for
good while it holds rows (ray#62746: with max_errored_blocks set, such a pool hung). Writes
facts.json.
"""

import json
import logging
import sys
import time
from pathlib import Path

from pipeline.flow.environment import prepare_environment
from pipeline.runs import execute as run
from pipeline.runs.progress import Progress
from tests.support import poison
from tests.support.demo import copies, demo_config, write_manifest


def main(folder: Path) -> None:
    prepare_environment()
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    manifest = write_manifest(folder, copies(1)[:8])
    gpu = ("ray.num_gpus=1", "ray.label_cpus=0", "label.precision=fp32", "label.device=cpu")
    config = demo_config(folder / "out", f"manifest={manifest}", "vad=none", *gpu)
    build = poison.with_parts(load_model=poison.model_killed_for_good(folder / "killed"))
    phases: dict[str, None] = {}

    def note(progress: Progress) -> None:
        phases[progress.doing] = None

    started = time.monotonic()
    outcome = run.execute(config, note, build=build)
    facts = {
        "was_killed": (folder / "killed").is_file(),
        "n_unfinished": outcome.n_unfinished,
        "n_errors": outcome.progress.n_errors,
        "wall_s": time.monotonic() - started,
        "phases": list(phases),
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
