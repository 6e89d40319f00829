"""Memory that a step frees stays with the process: to give it back and get it again costs a tenth of a short step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES, _LARGE_BYTES = 64 << 20, 32 << 20


def keep_memory() -> None:
    """Let glibc keep 64 MiB at the end of its heap, and take blocks below 32 MiB from it; elsewhere do nothing.

    By default it gives back what is free there beyond twice the largest block, and the kernel clears every page of it
    anew at the next step.
    """
    if sys.platform == "linux" and hasattr(allocator := ctypes.CDLL(None), "mallopt"):
        allocator.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        allocator.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
