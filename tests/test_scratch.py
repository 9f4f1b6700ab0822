"""Folders for variants: they go with their process, however it ends, and nothing else goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from prm.sql.scratch import PREFIX, SETTLED, ScratchFolder, _sweep

HOLDS_A_FOLDER = (
    "import sys, time; from prm.sql.scratch import ScratchFolder; folder = ScratchFolder();"
    "open(folder.name + '/variant.sqlite', 'w').close(); print(folder.name, flush=True); time.sleep(600)"
)


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch):
    """Another process, and some minutes later."""

    def go_on(seconds: float = 2 * SETTLED) -> None:
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        _sweep.cache_clear()

    return go_on


def test_a_folder_is_there_and_gone(tmp: Path) -> None:
    with ScratchFolder() as folder:
        (folder / "variant.sqlite").touch()
        assert folder.parent == tmp
    assert not list(tmp.iterdir())


def test_what_a_killed_process_leaves_is_taken_away_by_the_next_one(tmp: Path, later) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS_A_FOLDER], stdout=subprocess.PIPE, text=True) as other:
        try:
            left = Path(other.stdout.readline().strip())
            assert left.parent == tmp
            later()
            ScratchFolder().cleanup()
            assert (left / "variant.sqlite").exists()  # its process lives
        finally:
            os.kill(other.pid, signal.SIGKILL)
    _sweep.cache_clear()
    ScratchFolder().cleanup()
    assert not left.exists()


def test_nothing_else_is_touched(tmp: Path, later) -> None:
    elsewhere = tmp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp / f"{PREFIX}link").symlink_to(elsewhere)
    (tmp / f"{PREFIX}file").touch()
    (tmp / "prm-other").mkdir()
    stale, young = tmp / f"{PREFIX}stale", tmp / f"{PREFIX}young"
    stale.mkdir()
    young.mkdir()
    held = ScratchFolder()
    later()
    os.utime(young, (time.time(), time.time()))
    ScratchFolder().cleanup()
    left = {path.name for path in tmp.iterdir()}
    assert left == {
        "elsewhere", f"{PREFIX}link", f"{PREFIX}file", "prm-other", young.name, Path(held.name).name
    }  # fmt: skip
    assert (elsewhere / "precious").exists()
    held.cleanup()
