"""The machine on which something was measured."""

import os
from pathlib import Path
from typing import Any


def describe_machine(threads: int) -> dict[str, Any]:
    """Names and numbers for a report: CPU, cores, instructions, load, torch and GPU."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "threads": threads,
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
