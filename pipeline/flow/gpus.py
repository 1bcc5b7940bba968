"""Refuse GPUs that this machine does not have, before Ray would wait for them. Imports no Ray.

A local Ray cannot grow. A run that asks it for a GPU that is not there would wait for ever.
"""

import ctypes
import os
import sys
from pathlib import Path

from pipeline.config import RayConfig
from pipeline.errors import ConfigError

_AMD_DRIVER = Path("/dev/kfd")


def check_gpus(config: RayConfig) -> None:
    """Raises ConfigError if a SenseVoice worker of a local Ray needs more GPUs than there are."""
    if config.num_gpus <= 0 or not is_local(config):
        return
    n_gpus = count_gpus()
    if n_gpus is None or config.num_gpus <= n_gpus:
        return
    has = "no GPU" if n_gpus == 0 else f"{n_gpus} of them"
    raise ConfigError(
        f"ray.num_gpus is {config.num_gpus:g}, but this machine has {has}. To label on its CPUs, "
        "set ray.num_gpus=0 and ray.label_cpus=1; to use a cluster, set ray.address"
    )


def count_gpus() -> int | None:
    """The GPUs that CUDA gives this process; None if that cannot be known without torch (AMD).

    Asks the driver library: importing torch for it would take seconds and 600 MB.
    """
    if _AMD_DRIVER.exists():
        return None
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    n_gpus = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(n_gpus)):
        return 0
    return n_gpus.value


def is_local(config: RayConfig) -> bool:
    """Whether ray_session would start a Ray on this machine."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return False  # the caller's own, which may have been given a number of GPUs
    return not (config.address or os.environ.get("RAY_ADDRESS"))
