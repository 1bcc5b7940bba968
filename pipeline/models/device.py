"""Choose the device that a model runs on. Knows torch's names of devices."""

import torch


def pick_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda"; "auto": the GPU if this process sees one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
