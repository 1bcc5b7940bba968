"""What this machine has: cores, memory, the CPU's instructions. Imports no torch; asks no GPU."""

import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # version 2: the limits of a container
_BF16 = ("amx_bf16", "avx512_bf16")  # flags of Linux
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # widest first


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use."""

    n_cores: int
    memory_bytes: int
    bf16: str = ""  # the CPU's fastest instructions for bf16; "": none
    vectors: str = ""  # its widest vectors: AVX-512 or AVX2; "": another kind of CPU
    n_gpus: int = 0


def this_machine(n_gpus: int = 0) -> Machine:
    """This machine, within the limits of its container. GPUs are counted by the caller."""
    flags = _flags()
    return Machine(
        n_cores=available_cores(),
        memory_bytes=_memory_bytes(),
        bf16=next((name for name in _BF16 if name in flags), ""),
        vectors=next((name for flag, name in _VECTORS.items() if flag in flags), ""),
        n_gpus=n_gpus,
    )


def available_cores(folder: Path = _CGROUP) -> int:
    """Cores that this process may use; a container may have a part of them."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        return max(1, min(n_cores or 1, int(quota) // int(period)))
    return n_cores or 1


def _memory_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(_CGROUP / "memory.max")
    return min(memory, int(limit)) if limit.isdecimal() else memory


def _flags() -> list[str]:
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
