"""What a process frees, it keeps for its next layer; unless somebody has set that otherwise."""

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
#: Blocks of 24, 8 and 16 MB, as the layers of a model ask for and free, and the page faults of 100 rounds.
LAYERS = """
import resource
from prm.jobs.memory import keep_freed_memory
keep_freed_memory()
import torch
def layer():
    for mib in (24, 8, 16):
        torch.ones(mib << 18)
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**settings: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", LAYERS], env=environment | settings, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_layer_gets_the_memory_that_the_one_before_it_freed() -> None:
    given_back = faults(MALLOC_MMAP_THRESHOLD_="131072", MALLOC_TRIM_THRESHOLD_="131072")  # left alone
    assert given_back >= 300  # one for each block at least, however large its pages
    assert faults() < given_back / 10
