"""A running Ray: the caller's own, a cluster's, or one on this machine. Knows no stage."""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.config import RayConfig
from pipeline.errors import RunStopped
from pipeline.flow.environment import prepare_environment
from pipeline.flow.ray_internals import disable_uv_hook, native_stderr_closed

WRITE_CPUS = 0.25  # of a task that writes a bundle
_CONNECT_S = 10.0


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """A running Ray: the caller's own, the job's or `ray.address`'s, else one on this machine.

    Leaving it frees what actors held, those of a failed round too, which Ray Data may leave behind.
    Raises RunStopped if nothing answers at `ray.address`.
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
            address="local",  # without it ray joins what `ray start` has left on this machine
            num_cpus=max(config.num_cpus or os.cpu_count() or 1, _cpus_needed(config)),
            object_store_memory=config.object_store_bytes,
            include_dashboard=False,
            **quiet,
        )


def _cpus_needed(config: RayConfig) -> int:
    """Logical CPUs: at least what the actors hold, one decode task and one write beside them."""
    n_segment_workers = 0 if config.segment_with_model else config.segment_workers
    return math.ceil(
        n_segment_workers * config.segment_cpus
        + config.label_workers * config.label_cpus
        + config.decode_cpus
        + WRITE_CPUS
    )


def check_reachable(address: str) -> None:
    """Fail fast if nothing listens at host:port; ray.init would wait for minutes, silently.

    Raises RunStopped.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return  # auto, ray://...: Ray knows where that is
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise RunStopped(
            f"ray.address {address}: no Ray answers ({error}); start its head node, or correct "
            "the address"
        ) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """ray.init takes SIGTERM over, with a handler that exits with code 15."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)
