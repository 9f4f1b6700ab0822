"""What a process frees, it keeps for its next layer; unless somebody has set that otherwise."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

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

#: Commands that run a model, as far as the model that is not there; then whether they have set memory up.
COMMAND = """
import contextlib, os, sys
from prm.errors import InputError
from prm import cli
with contextlib.suppress(InputError, SystemExit):
    cli.main(sys.argv[1:])
print(os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""


def run(program: str, *arguments: str, **settings: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def faults(**settings: str) -> int:
    return int(run(LAYERS, **settings))


def test_a_layer_gets_the_memory_that_the_one_before_it_freed() -> None:
    given_back = faults(MALLOC_MMAP_THRESHOLD_="131072", MALLOC_TRIM_THRESHOLD_="131072")  # left alone
    assert given_back >= 300  # one for each block at least, however large its pages
    assert faults() < given_back / 10


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--model", "none", "--data", "none.jsonl", "--output", "none/out.jsonl"],
        ["evaluate", "--model", "none", "--data", "none.jsonl", "--output", "none"],
        ["rerank", "--model", "none", "--data", "none.jsonl", "--output", "none/out.jsonl"],
        ["serve", "--model", "none"],
        ["judge", "--model", "none", "--data", "traces.jsonl", "--output", "none/out.jsonl"],
        ["train", "none.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_run_a_model_keep_their_memory(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "How many?", "completions": ["Count."], "labels": [True]}
    Path("traces.jsonl").write_text(json.dumps(row) + "\n")
    assert run(COMMAND, *command) == "1"
    assert run(COMMAND, *command, MALLOC_ARENA_MAX="2") == "None"  # somebody else's settings stay alone
