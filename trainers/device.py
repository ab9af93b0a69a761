"""Where a trainer computes, and in which precision."""

import torch

from search_space.errors import UserError


def find_device(name: str | None) -> torch.device:
    """The device of that name; None: the GPU if there is one, else the CPU.

    Raises:
        UserError: there is none.
    """
    gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if gpu else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device must be `cpu` or `cuda`, got {name!r}") from error
    if device.type == "cuda" and not gpu:
        law = f"device {name!r} needs a GPU that torch {torch.__version__} can use, got none"
        raise UserError(f"{law}: install a CUDA build of torch, or take `cpu` (--gpus-per-worker 0)")
    return device


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The type that a setting of `amp` stands for; None: no autocast."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
