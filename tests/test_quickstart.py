"""The quickstart as a newcomer runs it: a fresh clone, a fresh environment, one command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_quickstart_in_a_fresh_clone(tmp_path):
    """On databases it never saw the PRM beats every baseline, and the closing lines say where all lies."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(clone)], check=True)
    clean = {
        k: v
        for k, v in os.environ.items()
        if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")
    }
    done = subprocess.run(
        ["make", "quickstart"],
        cwd=clone,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    run = clone / "runs" / "quickstart"
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    baselines = metrics["baselines"]
    assert metrics["n_traces"] == 288
    for baseline in ("never_flag", "flag_first", "position_only"):
        assert metrics["first_error_acc"] > baselines[baseline]["first_error_acc"]
    assert metrics["f1"] >= 0.35
    assert metrics["step_auc"] >= baselines["position_only"]["step_auc"] + 0.08
    for path in ("checkpoint/head.safetensors", "eval/report.html", "eval/predictions.jsonl", "tensorboard"):
        assert (run / path).exists()
    closing = done.stdout[-4000:]
    for words in (
        "first_error_acc",
        "never",
        "position",
        "runs/quickstart/checkpoint",
        "report.html",
        "tensorboard",
    ):
        assert words in closing
    assert (run / "checkpoint" / "head.safetensors").stat().st_size < 2**21  # the head alone
