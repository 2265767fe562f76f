"""Freed activations stay with the process.

Every training step allocates and frees the same few hundred activations. By default glibc hands large freed blocks back to
the kernel, which zeroes them page by page when the next step allocates again: about a tenth of a training step of a small
U-Net on a CPU.
"""

import ctypes
import platform

# The options' numbers in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, PAD = 2**31 - 1, 2**26


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for speed on a CPU. True where the C library can (glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(option, value) == 1 for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, PAD))
    )
