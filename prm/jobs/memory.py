"""Memory for computing on a CPU.

glibc gives large blocks back to the system as soon as they are free, and a model asks for the same again in
its next layer. Each page then comes anew, with a fault and zeros, which costs up to a quarter of the
time (`benchmarks/speed.py --default-malloc`).
"""

from __future__ import annotations

import os

# As in glibc's <malloc.h>; both thresholds are the largest that it takes.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 256 << 20, M_MMAP_THRESHOLD: 32 << 20}


def keep_freed_memory() -> None:
    """Let this process keep up to 2 GiB that it freed, for its next layer or step; in 2 MiB pages where the
    system has them. For commands that run a model, before they ask for memory.

    Nothing happens where somebody has set how malloc works, and with other C libraries than glibc.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes  # not for `prm --help`

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    for setting, value in SETTINGS.items():
        mallopt(setting, value)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it with its first large tensor
