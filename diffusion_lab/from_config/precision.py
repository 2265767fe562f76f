"""trainer.precision=auto: bf16-mixed where the device computes bf16 in hardware, else 32-true."""

from __future__ import annotations


def precision_of(option: str | int, on_gpu: bool) -> str | int:
    """What trainer.precision comes to on this machine."""
    if option != "auto":
        return option
    return "bf16-mixed" if _has_bf16(on_gpu) else "32-true"


def _has_bf16(on_gpu: bool) -> bool:
    """Not what torch can emulate, which is slower than float32."""
    import torch

    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
