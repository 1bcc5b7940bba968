"""Start Ray on this machine, or connect to the caller's or a cluster's Ray. Knows no stage."""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.config import RayConfig
from pipeline.errors import RunStopped
from pipeline.flow.environment import prepare_environment
from pipeline.flow.ray_internals import disable_uv_hook, native_stderr_closed

WRITE_CPUS = 0.25  # of a task that writes a bundle
_CONNECT_S = 10.0
_ASK_EVERY_S = 5.0
_LONG_START_S = 30.0  # from which the resources of the cluster are told, too


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """A running Ray: the caller's own, the job's or the one at `ray.address`, else a local one.

    At the end it disconnects, which frees the resources of all actors; Ray Data may leave some of a
    failed round behind. Raises RunStopped if nothing answers at `ray.address`.
    """
    if ray.is_initialized():
        yield
        return
    with _sigterm_kept():
        _start(config)
    try:
        yield
    finally:
        ray.shutdown()


def _start(config: RayConfig) -> None:
    prepare_environment()
    disable_uv_hook()
    address = config.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        check_reachable(address)
        with native_stderr_closed():
            ray.init(address=address, **quiet)
        return
    with native_stderr_closed():
        ray.init(
            address="local",  # else ray connects to one that `ray start` left running here
            num_cpus=max(config.num_cpus or os.cpu_count() or 1, _cpus_needed(config)),
            object_store_memory=config.object_store_bytes,
            include_dashboard=False,
            **quiet,
        )


class Shortage:
    """What a run waits for before its workers are ready; asks Ray every five seconds at most."""

    def __init__(self, config: RayConfig) -> None:
        self._needed = {
            "GPU": config.label_workers * config.num_gpus,
            "CPU": float(_cpus_needed(config)),
        }
        self._asked_s = -math.inf
        self._started_s = time.monotonic()
        self._lacks = self._free = ""

    def text(self, starting: str = "") -> str:
        """For example "2 GPUs (the cluster has 0)"; "" if there is enough of everything.

        `starting` is the text for that case, if workers are not ready. After half a minute what is
        free is told with it: another job may hold the rest.
        """
        now_s = time.monotonic()
        if now_s - self._asked_s >= _ASK_EVERY_S:
            self._asked_s = now_s
            present = ray.cluster_resources()
            self._lacks = explain_shortage(self._needed, present)
            self._free = explain_free(self._needed, present, ray.available_resources())
        if self._lacks or not starting or now_s - self._started_s < _LONG_START_S:
            return self._lacks or starting
        return f"{starting} (free in the cluster: {self._free})"


def explain_shortage(needed: Mapping[str, float], present: Mapping[str, float]) -> str:
    """Resources of which the cluster has less than is needed, in words."""
    return " and ".join(
        f"{count:g} {name}{'' if count == 1 else 's'} (the cluster has {present.get(name, 0):g})"
        for name, count in needed.items()
        if count > present.get(name, 0)
    )


def explain_free(
    needed: Mapping[str, float], present: Mapping[str, float], free: Mapping[str, float]
) -> str:
    """Of each resource that is needed, how much is free, in words."""
    return ", ".join(
        f"{free.get(name, 0):g} of {present.get(name, 0):g} {name}s"
        for name, count in needed.items()
        if count
    )


def _cpus_needed(config: RayConfig) -> int:
    """Logical CPUs that a local Ray needs: those of all actors, one decode task and one write."""
    n_segment_workers = 0 if config.segment_with_model else config.segment_workers
    return math.ceil(
        n_segment_workers * config.segment_cpus
        + config.label_workers * config.label_cpus
        + config.decode_cpus
        + WRITE_CPUS
    )


def check_reachable(address: str) -> None:
    """Fail fast if nothing listens at host:port; ray.init would wait for minutes without a message.

    Raises RunStopped.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return  # auto, ray://...: Ray resolves these
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise RunStopped(
            f"ray.address {address}: no Ray answers ({error}); start its head node, or correct "
            "the address"
        ) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the SIGTERM handler afterwards: ray.init installs one that exits with code 15."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)
