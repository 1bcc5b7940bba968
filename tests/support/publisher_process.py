"""Publishers as processes of their own, for tests that kill them or set them against each other."""

import multiprocessing
import os
import random
import signal
from multiprocessing.context import ForkServerContext
from typing import Any

from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.ledger import ledger
from pipeline.tables.publisher import Publisher, publish
from pipeline.tables.run_records import RunInfo
from tests.support.bundle_rows import RUN, bundle, window


def forkserver() -> ForkServerContext:
    """Children are forked from a process that has imported everything and runs no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.support.publisher_process"])
    return context


def publish_for_ever(root: str, name: str, seed: int, ready: Any) -> None:
    """New recordings, and changed versions of committed ones, a commit after the other."""
    store = open_store(root)
    publisher = Publisher(store, RUN)
    choose = random.Random(seed)
    ready.set()
    for turn in range(1_000_000):
        rows = [window(f"{name}{turn}", attempt_id=name)]
        known = ledger(root, fingerprint=RUN.fingerprint).to_pylist()
        if known:
            old = choose.choice(known)
            state = f"{old['work_key']}:{old['attempts']}"
            version = f"v{name}{turn}"
            rows.append(
                window(old["recording_id"], version=version, attempt_id=name, supersedes=state)
            )
        write_bundle(store, RUN, bundle(*rows))
        publisher.publish()


def publish_paused(root: str, lies: bool) -> None:
    """Stops (SIGSTOP) with its files written and its commit not. A store that lies overwrites."""
    store = open_store(root)
    honest = store.put_if_absent

    def pause(key: str, data: bytes) -> bool:
        os.kill(os.getpid(), signal.SIGSTOP)
        if lies:
            store.put(key, data)
            return True
        return honest(key, data)

    store.put_if_absent = pause  # type: ignore[method-assign]
    publish(store, RUN)


def publish_rounds(root: str, name: str, n_rounds: int, counts: Any) -> None:
    """Two recordings of its own a round, and one that all publishers have; counts what it won."""
    store = open_store(root)
    run = RunInfo(f"run-{name}", RUN.fingerprint, "demo", RUN.model_hash, "none")
    publisher = Publisher(store, run)
    for turn in range(n_rounds):
        mine = [window(f"{name}{turn}-{n}", attempt_id=name) for n in range(2)]
        write_bundle(store, run, bundle(*mine, window(f"shared{turn}", attempt_id=name)))
        published = publisher.publish()
        counts.put((published.n_recordings, published.n_dropped))
