"""Whether a device computes in bfloat16; one that has to imitate it is slower than in float32."""

import platform
import warnings

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16; True where PyTorch does not tell."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    try:  # neither is public, so another version may lack it
        if platform.machine().lower() in ("x86_64", "amd64"):
            return bool(torch.cpu._is_avx512_bf16_supported())
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:
        return True


def warn_without_bfloat16(device: torch.device) -> None:
    """Warn whoever asked for bf16 on a device that has to imitate it."""
    if not has_bfloat16(device):
        warnings.warn(
            f"this {device.type} has no instructions for bfloat16 and imitates them, much slower "
            "than fp32; leave --precision bf16 out",
            stacklevel=3,
        )
