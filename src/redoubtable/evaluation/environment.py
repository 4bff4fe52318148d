"""What a number was measured on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from redoubtable.version import __version__

_PACKAGES = ("torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "matplotlib")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return versions and hardware, as records and bug reports carry them."""
    return {
        "redoubtable": __version__,
        "python": platform.python_version(),
        "packages": {"torch": torch.__version__} | {name: _version(name) for name in _PACKAGES},
        "device": hardware(torch.device(device)),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware(device: torch.device) -> str:
    """Return what a device is, whatever its number: "cpu" or an accelerator's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cpu() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
