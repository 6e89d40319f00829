"""What training asks of the process it runs in: memory that is kept, and fast matrix products."""

import ctypes
import sys

import torch

_MIB = 1 << 20
_ALLOCATOR = {-3: 256 * _MIB, -1: 512 * _MIB, -2: 64 * _MIB}
"""Of <malloc.h>: M_MMAP_THRESHOLD (smaller buffers come from the heap), M_TRIM_THRESHOLD (so much of it may stay free)
and M_TOP_PAD (by so much it grows)."""


def prepare_process(device: torch.device) -> None:
    """Set up the process for steps that use the same large buffers over and over; safe to call again.

    On a GPU, f32 matrix products may use TF32. On a CPU, glibc's allocator keeps what a step frees for the next one:
    by default it returns it to the kernel, which hands it out again zeroed, page by page (6 % of a step's CPU time
    with 12,000 items, at the same peak memory). No-op where there is no glibc.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    elif sys.platform == "linux":
        library = ctypes.CDLL(None)
        for parameter, value in _ALLOCATOR.items() if hasattr(library, "mallopt") else ():
            library.mallopt(parameter, value)
