"""Which device a model runs on. Knows the names that torch gives to devices."""

import torch


def pick_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda"; "auto" is a GPU, if this process sees one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
