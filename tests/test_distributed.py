"""Two real processes on gloo, by the files that were written for GPUs: what one process does, two do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from colour_traces import make_traces
from safetensors.torch import load_file

from prm import Scorer, load_traces
from prm.traces.formats import write_traces
from prm.train import main

REPO = Path(__file__).resolve().parent.parent
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "TOKENIZERS_PARALLELISM": "false"}
MODES = ("frozen", "lora", "full", "qlora")

#: Trains what the lines of a file say, one run after another, in the processes it is launched in.
RUNS = """
import json, sys
import prm.train

for words in json.load(open(sys.argv[1])):
    prm.train.run(words)
"""


def launch(*words, timeout=600):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", str(port), *words]
    return subprocess.run(command, env=ENV, cwd=REPO, capture_output=True, text=True, timeout=timeout)


def config_file(name):
    return ("--config_file", str(REPO / "accelerate_configs" / f"{name}.yaml"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir):
    """Folder with a recipe for each mode, and what one process makes of it in `one-MODE`: 8 steps of 8
    traces, the last of an epoch with one trace only; 9 dev traces and one to be tested.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name, questions, n in (("train", 12, 25), ("dev", 5, 9), ("test", 1, 1)):
        write_traces(make_traces(questions, seed=len(name))[:n], folder / f"{name}.jsonl")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for mode in MODES:
        values = {
            "model_name_or_path": tiny_model_dir(),
            "backbone": mode,
            "train_data": folder / "train.jsonl",
            "eval_data": folder / "dev.jsonl",
            "test_data": folder / "test.jsonl",
            "num_train_epochs": 2,
            "learning_rate": "1e-3",
            "lr_scheduler_type": "constant",
            "max_tokens_per_batch": 300,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "save_strategy": "steps",
            "save_steps": 4,
            "load_best_model_at_end": True,
            "activation_checkpointing": mode != "frozen",
            "report_to": "none",
            "disable_tqdm": True,
        }
        lines = "".join(f"{key}: {value}\n" for key, value in values.items())
        (folder / f"{mode}.yaml").write_text(lines)
        main(one_process(folder, mode, f"one-{mode}"))
    torch.set_num_threads(threads)
    return folder


def one_process(folder, mode, output, *more):
    words = [str(folder / f"{mode}.yaml"), "--per_device_train_batch_size", "8"]
    return [*words, "--output_dir", str(folder / output), *more]


def two_processes(folder, mode, output, *more):
    """The same global batch, in two micro-steps."""
    words = [str(folder / f"{mode}.yaml"), "--per_device_train_batch_size", "2"]
    words += ["--gradient_accumulation_steps", "2", "--output_dir", str(folder / output)]
    return [*words, *more]


def train_in_two(folder, engine, *jobs, more=()):
    (folder / "runs.py").write_text(RUNS)
    (folder / f"{engine}.json").write_text(json.dumps(jobs))
    words = [*config_file(engine), "--num_processes", "2", *more]
    done = launch(*words, str(folder / "runs.py"), str(folder / f"{engine}.json"))
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def numbers(run, key):
    log = json.loads((run / "checkpoint" / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in log if key in entry]


def tensors(checkpoint):
    found = {}
    for file in sorted(checkpoint.rglob("*.safetensors")):
        found |= {f"{file.name}/{name}": tensor for name, tensor in load_file(file).items()}
    return found


def assert_same(one, other, last=8):
    """The same curves, weights, checkpoint files and scores."""
    for key in ("loss", "grad_norm", "eval_loss", "eval_f1", "eval_n_traces", "eval_n_steps"):
        a, b = numbers(one, key), numbers(other, key)
        assert len(a) == (last if key in ("loss", "grad_norm") else last // 4), key
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6), key
    a, b = tensors(one / "checkpoint"), tensors(other / "checkpoint")
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=2e-5, msg=name)
    for folder in ("checkpoint", f"checkpoint-{last}"):
        files = [
            {str(f.relative_to(run)): f.stat().st_size for f in (run / folder).rglob("*") if f.is_file()}
            for run in (one, other)
        ]
        states = re.compile(r"rng_state")  # of each process its own
        names = [{name for name in found if not states.search(name)} for found in files]
        assert names[0] == names[1], folder
        for name in names[0]:
            if name.endswith((".safetensors", "optimizer.pt")):
                assert abs(files[0][name] - files[1][name]) < 2048, name
    scores = [
        [t.scores for t in load_traces(str(run / "eval" / "predictions.jsonl"))] for run in (one, other)
    ]
    assert [len(row) for row in scores] == [1, 1]
    assert scores[1][0] == pytest.approx(scores[0][0], abs=1e-5)


ENGINES = [
    ("ddp", "MULTI_CPU", MODES),
    ("zero2", "DEEPSPEED ZeRO-2", ("lora",)),
    ("zero3", "DEEPSPEED ZeRO-3", ("lora",)),
]


@pytest.mark.parametrize(
    ("engine", "name", "modes"),
    [
        *ENGINES,
        pytest.param("zero2", "DEEPSPEED ZeRO-2", MODES, marks=pytest.mark.slow, id="zero2-all"),
        pytest.param("zero3", "DEEPSPEED ZeRO-3", MODES[:3], marks=pytest.mark.slow, id="zero3-all"),
    ],
)
def test_two_processes_equal_one(runs, engine, name, modes):
    """A whole run, and one that goes on from a checkpoint of one process; then one process goes on from
    theirs. With token trees, accumulation and activation checkpointing.
    """
    jobs = []
    for mode in modes:
        jobs.append(two_processes(runs, mode, f"{engine}-{mode}"))
        middle = ("--resume_from_checkpoint", str(runs / f"one-{mode}" / "checkpoint-4"))
        jobs.append(two_processes(runs, mode, f"{engine}-{mode}-on", *middle))
    said = train_in_two(runs, engine, *jobs)
    assert said.count(f"prm: 2 process(es) on cpu, {name}; ") == len(jobs)
    for mode in modes:
        one, two = runs / f"one-{mode}", runs / f"{engine}-{mode}"
        assert_same(one, two)
        assert_same(one, runs / f"{engine}-{mode}-on")
        assert not list(two.rglob("global_step*"))
        middle = ("--resume_from_checkpoint", str(two / "checkpoint-4"))
        main(one_process(runs, mode, f"{engine}-{mode}-one", *middle))
        assert_same(one, runs / f"{engine}-{mode}-one")
        traces = load_traces(str(runs / "test.jsonl"))
        (scores,) = Scorer.from_pretrained(two / "checkpoint", device="cpu").score(traces)
        (written,) = (t.scores for t in load_traces(str(two / "eval" / "predictions.jsonl")))
        assert scores == pytest.approx(written, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_offloaded_to_cpu_memory(runs, stage):
    """DeepSpeed's own Adam, which g++ compiles when it is first used, takes the steps of torch's, also from
    the states of torch's in the middle of a run, and torch's from its."""
    middle = ("--resume_from_checkpoint", str(runs / "one-lora" / "checkpoint-4"))
    engine = f"zero{stage}_offload"
    jobs = [two_processes(runs, "lora", engine), two_processes(runs, "lora", f"{engine}-on", *middle)]
    said = train_in_two(runs, engine, *jobs)
    assert f"prm: 2 process(es) on cpu, DEEPSPEED ZeRO-{stage} offloaded to cpu; " in said
    assert_same(runs / "one-lora", runs / engine)
    assert_same(runs / "one-lora", runs / f"{engine}-on")
    middle = ("--resume_from_checkpoint", str(runs / engine / "checkpoint-4"))
    main(one_process(runs, "lora", f"{engine}-one", *middle))
    assert_same(runs / "one-lora", runs / f"{engine}-one")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_two_machines(runs, engine):
    """The files for several machines, with this one standing for both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", "accelerate.commands.launch", *config_file(f"multi_node/{engine}")]
    words += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    job = ["prm/train.py", *two_processes(runs, "lora", f"machines-{engine}")]
    machines = [
        subprocess.Popen(
            [*words, "--main_process_port", port, "--machine_rank", str(rank), *job],
            env=ENV, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [machine.communicate(timeout=900) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ended[0][1][-3000:]
    assert all("prm: 2 process(es) on cpu" in out for out, _ in ended)
    assert ["checkpoint   " in out for out, _ in ended] == [True, False]
    assert_same(runs / "one-lora", runs / f"machines-{engine}")


#: As `RUNS`, with features in a folder of each process's own.
APART = """
import json, os, sys
import prm.train

for words in json.load(open(sys.argv[1])):
    prm.train.run([*words, "--features_dir", f"{sys.argv[2]}-{os.environ['RANK']}"])
"""


@pytest.mark.slow
def test_processes_with_disks_of_their_own(runs):
    """One has kept all features of an earlier run, the other has none."""
    shutil.copytree(runs / "one-frozen" / "features", runs / "apart-0")
    (runs / "apart.py").write_text(APART)
    (runs / "apart.json").write_text(json.dumps([two_processes(runs, "frozen", "apart")]))
    words = [*config_file("ddp"), "--num_processes", "2", str(runs / "apart.py")]
    done = launch(*words, str(runs / "apart.json"), str(runs / "apart"))
    assert done.returncode == 0, done.stderr[-6000:]
    assert "prm: 2 process(es) on cpu" in done.stdout
    assert_same(runs / "one-frozen", runs / "apart")
    kept = [{file.name for file in (runs / f"apart-{rank}").rglob("*.safetensors")} for rank in range(2)]
    assert all(kept)


#: the words for the launcher, and what the only line of ours says
MISTAKES = [
    (
        ("--cpu", "--num_processes", "2"),
        "accelerate launch was asked for 2 processes, but started 1; for several on a machine without GPUs",
    ),
    pytest.param(
        (*config_file("fsdp"), "--num_processes", "2"),
        "FSDP needs GPUs, and there is none; take",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine without GPUs")
def test_other_processes_or_another_engine_than_asked_for(runs, words, message):
    done = launch(*words, "prm/train.py", *one_process(runs, "lora", "mistake"))
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("prm: "))
    assert message in line
    assert not (runs / "mistake").exists()
    assert re.search(r"exit (status|code)\W+2|exitcode\s*: 2", done.stderr)
