"""Publishers in their own processes, for tests that kill them or let them compete."""

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
    """Processes are forked from one that has imported everything and has no other threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.support.publisher_process"])
    return context


def publish_forever(root: str, name: str, seed: int, ready: Any) -> None:
    """Commit a new recording and a new version of a committed one, again and again."""
    store = open_store(root)
    publisher = Publisher(store, RUN)
    chance = random.Random(seed)
    ready.set()
    for turn in range(1_000_000):
        rows = [window(f"{name}{turn}", attempt_id=name)]
        known = ledger(root, fingerprint=RUN.fingerprint).to_pylist()
        if known:
            old = chance.choice(known)
            state = f"{old['work_key']}:{old['attempts']}"
            version = f"v{name}{turn}"
            rows.append(
                window(old["recording_id"], version=version, attempt_id=name, supersedes=state)
            )
        write_bundle(store, RUN, bundle(*rows))
        publisher.publish()


def publish_paused(root: str, ignores_condition: bool) -> None:
    """Stop (SIGSTOP) after the files are written and before the commit.

    With `ignores_condition`, the commit then overwrites the record of another publisher.
    """
    store = open_store(root)
    put_if_absent = store.put_if_absent

    def pause(key: str, data: bytes) -> bool:
        os.kill(os.getpid(), signal.SIGSTOP)
        if ignores_condition:
            store.put(key, data)
            return True
        return put_if_absent(key, data)

    store.put_if_absent = pause  # type: ignore[method-assign]
    publish(store, RUN)


def publish_rounds(root: str, name: str, n_rounds: int, counts: Any) -> None:
    """Commit two recordings of its own a round, and one that all publishers have; put counts."""
    store = open_store(root)
    run = RunInfo(f"run-{name}", RUN.fingerprint, "demo", RUN.model_hash, "none")
    publisher = Publisher(store, run)
    for turn in range(n_rounds):
        mine = [window(f"{name}{turn}-{n}", attempt_id=name) for n in range(2)]
        write_bundle(store, run, bundle(*mine, window(f"shared{turn}", attempt_id=name)))
        published = publisher.publish()
        counts.put((published.n_recordings, published.n_dropped))
