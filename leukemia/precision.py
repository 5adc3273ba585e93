"""Precision: the meaning of `auto` on this machine, and the autocast of a precision."""

import torch


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's name for a precision; `auto` is `bf16-mixed` where the device computes in bf16, else `32-true`.

    Args:
        precision: `auto`, or any value of Lightning's.
        accelerator: `cpu` or `cuda`, resolved.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if _computes_in_bf16(accelerator) else "32-true"


def autocast(device: str, precision: str) -> torch.autocast:
    """The context in which Lightning runs a network in this precision.

    Args:
        device: `cpu`, `cuda`, ...
        precision: Lightning's name, as `32-true` or `bf16-mixed`.
    """
    dtype = torch.float16 if precision.startswith("16") else torch.bfloat16
    return torch.autocast(device, dtype=dtype, enabled="mixed" in precision)


def _computes_in_bf16(accelerator: str) -> bool:
    """Whether the processor has instructions for bf16 (AVX512-BF16 or AMX), or the GPU has them in hardware."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return accelerator == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
