"""`prm/train.py` from the recipe to the finished run: launched, killed, run again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from colour_traces import make_traces
from safetensors.torch import load_file

from prm import PRMTrainer, ProcessRewardModel, Scorer, Step, Trace, load_traces
from prm.cli import main as prm
from prm.errors import InputError
from prm.traces.formats import write_traces
from prm.train import choose_questions, main

REPO = Path(__file__).resolve().parent.parent
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that are launched here, so that bits can be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path, tiny_model_dir):
    """`recipe(**changes)`: a recipe's path, on 25 train, 10 dev and 5 test traces; run `tmp_path / "run"`."""

    def make(**changes):
        for name, questions, n in (("train", 12, 25), ("dev", 5, 10), ("test", 4, 5)):
            if not (tmp_path / f"{name}.jsonl").exists():
                write_traces(make_traces(questions, seed=len(name))[:n], tmp_path / f"{name}.jsonl")
        values = {
            "model_name_or_path": tiny_model_dir(),
            "backbone": "lora",
            "lora_dropout": 0.1,
            "train_data": tmp_path / "train.jsonl",
            "eval_data": tmp_path / "dev.jsonl",
            "test_data": tmp_path / "test.jsonl",
            "output_dir": tmp_path / "run",
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": "1e-2",
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "load_best_model_at_end": True,
            "report_to": "tensorboard",
            "disable_tqdm": True,
        } | changes
        file = tmp_path / "recipe.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in values.items() if value is not None))
        return str(file)

    return make


def weights(run):
    folder = Path(run) / "checkpoint"
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.name}/{name}": tensor for name, tensor in load_file(file).items()}
    assert found
    return found


def log_of(run):
    return json.loads((Path(run) / "checkpoint" / "trainer_state.json").read_text())["log_history"]


def metrics_of(run):
    metrics = json.loads((Path(run) / "eval" / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if value is None or isinstance(value, (int, float))}


def assert_same_run(one, other):
    """The same bits: weights, threshold, metrics."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert metrics_of(one) == metrics_of(other)
    configs = [json.loads((Path(run) / "checkpoint" / "config.json").read_text()) for run in (one, other)]
    assert configs[0] == configs[1]


def launch(*words, code=None, **env):
    """A fresh Python that runs prm/train.py, or `code` in its place."""
    start = ["-c", code] if code else [str(REPO / "prm" / "train.py")]
    return subprocess.run([sys.executable, *start, *words], env=ENV | env, capture_output=True, text=True)


# A whole run


def test_a_run(recipe, tmp_path, capfd):
    """What it leaves behind, what it says, and that the checkpoint gives the scores that were measured."""
    file = recipe()
    capfd.readouterr()
    main([file])
    out, err = capfd.readouterr()
    run = tmp_path / "run"
    assert {f.name for f in run.iterdir()} == {
        "all_results.json", "train_results.json", "score_results.json", "checkpoint", "checkpoint-6",
        "checkpoint-8", "eval", "tensorboard",
    } | {f"checkpoint-{best_step(run)}"}  # fmt: skip
    assert {f.name for f in (run / "eval").iterdir()} == {"metrics.json", "predictions.jsonl", "report.html"}
    files = {str(f.relative_to(run / "checkpoint")) for f in (run / "checkpoint").rglob("*") if f.is_file()}
    assert files >= {
        "config.json", "head.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "README.md",
    }  # fmt: skip
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)
    assert "prm: 1 process(es) on cpu, NO; lora backbone" in out and "25 traces" in out
    assert f"checkpoint   {run / 'checkpoint'}\ntensorboard  {run / 'tensorboard'}" in out
    for noise in ("FutureWarning", "LOAD REPORT", "it/s"):
        assert noise not in out + err

    predictions = load_traces(str(run / "eval" / "predictions.jsonl"))
    test = load_traces(str(tmp_path / "test.jsonl"))
    scorer = Scorer.from_pretrained(run / "checkpoint", device="cpu")
    for row, expected in zip([t.scores for t in predictions], scorer.score(test), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    config = scorer.model.config
    assert metrics["threshold"] == config.threshold and metrics["n_traces"] == len(test)
    assert metrics["threshold_from"] == config.threshold_from == "best f1 on the dev split (10 traces)"


def best_step(run):
    evaluations = [e for e in log_of(run) if "eval_f1" in e]
    key = [(-1 if e["eval_f1"] is None else e["eval_f1"], e["eval_step_auc"]) for e in evaluations]
    return evaluations[key.index(max(key))]["step"]


def test_prm_train_is_the_same_and_a_finished_run_is_left_alone(recipe, tmp_path, capsys):
    main([recipe()])
    assert prm(["train", recipe(), "--output_dir", str(tmp_path / "other")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "other")
    results = (tmp_path / "run" / "train_results.json").read_bytes()
    capsys.readouterr()
    main([recipe()])
    assert "this run had finished training already; measuring it again" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", tmp_path / "other")
    assert (tmp_path / "run" / "train_results.json").read_bytes() == results


def test_measured_on_the_dev_split_and_said_so(recipe, tmp_path):
    main([recipe(test_data=None, backbone="frozen", max_steps=2)])
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert metrics["n_traces"] == 10
    assert metrics["threshold_from"] == "best f1 on the dev split (10 traces), which is what is measured here"


LONG = Trace("Too long?", [Step("word " * 3000, 1), Step("end", 0)], group="long")


def test_test_traces_that_the_backbone_cannot_read(recipe, tmp_path, capfd, caplog):
    """One is left out and counted; where none remains, that is said before the training."""
    file = recipe(max_steps=2, backbone="frozen")
    test = load_traces(str(tmp_path / "test.jsonl"))
    write_traces([test[0], LONG, *test[1:]], tmp_path / "test.jsonl")
    main([file])
    (warning,) = (message for message in caplog.messages if "longer than" in message)
    assert warning.startswith("1 of 6 traces are longer than the 2048 tokens the backbone reads")
    assert warning.endswith(f"(first: {tmp_path / 'test.jsonl'}:2)")
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert metrics["n_traces"] == len(test)
    shutil.rmtree(tmp_path / "run")
    write_traces([LONG], tmp_path / "test.jsonl")
    capfd.readouterr()
    assert prm(["train", file]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f"prm: {tmp_path / 'test.jsonl'}: no trace is left within the 2048 tokens")
    assert not list((tmp_path / "run").iterdir())


def test_the_checkpoint_is_saved_before_the_test_traces_are_scored(recipe, tmp_path, monkeypatch):
    """Interrupted while scoring, a run has its checkpoint, and the same command only measures."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PRMTrainer, "scored", interrupted)
        main([recipe(max_steps=2)])
    run = tmp_path / "run"
    config = Scorer.from_pretrained(run / "checkpoint").model.config
    assert config.threshold_from == "best f1 on the dev split (10 traces)"
    assert "best f1 on the dev split" in (run / "checkpoint" / "README.md").read_text()
    assert not (run / "eval").exists()
    before = weights(run)
    main([recipe(max_steps=2)])
    assert all(torch.equal(before[name], weight) for name, weight in weights(run).items())
    assert (run / "eval" / "metrics.json").exists()


def test_nothing_to_measure(recipe, tmp_path, capsys):
    changes = {"eval_data": None, "test_data": None, "eval_strategy": None, "load_best_model_at_end": None}
    main([recipe(**changes, max_steps=2, report_to="none")])
    assert not (tmp_path / "run" / "eval").exists()
    assert (
        ProcessRewardModel.from_pretrained(tmp_path / "run" / "checkpoint").config.threshold_from == "default"
    )
    assert capsys.readouterr().out.endswith(f"checkpoint   {tmp_path / 'run' / 'checkpoint'}\n")


def test_resume_from_checkpoint(recipe, tmp_path):
    """A path, true (the default), or false, which wants a folder without checkpoints."""
    main([recipe(max_steps=4, save_total_limit=9)])
    first = str(tmp_path / "run" / "checkpoint-2")
    main(
        [
            recipe(max_steps=4, save_total_limit=9),
            "--resume_from_checkpoint",
            first,
            "--output_dir",
            str(tmp_path / "b"),
        ]
    )
    assert_same_run(tmp_path / "run", tmp_path / "b")
    main([recipe(max_steps=4), "--resume_from_checkpoint", "true"])
    with pytest.raises(InputError, match=r"resume_from_checkpoint: false, but .*checkpoint-4 exists"):
        main([recipe(max_steps=4), "--resume_from_checkpoint", "false"])
    with pytest.raises(
        InputError, match=r"checkpoint-4 was trained with another learning_rate \(0.01, now 0.5\)"
    ):
        main([recipe(), "--learning_rate", "0.5"])
    with pytest.raises(InputError, match="nowhere is no complete checkpoint"):
        main([recipe(), "--resume_from_checkpoint", "nowhere"])


def test_choose_questions():
    """Whole questions, a seeded choice, never more than the limit."""
    traces = make_traces(20)
    chosen = choose_questions(traces, 20, seed=1)
    sizes = {t.question_key: sum(o.question_key == t.question_key for o in traces) for t in traces}
    assert 15 < len(chosen) <= 20
    assert all(sum(o.question_key == t.question_key for o in chosen) == sizes[t.question_key] for t in chosen)
    assert chosen == choose_questions(traces, 20, seed=1) != choose_questions(traces, 20, seed=2)
    assert len(choose_questions(traces, 10**6, seed=1)) == len(traces)
    with pytest.raises(InputError, match="max_train_traces=1 is less than any question has"):
        choose_questions([t for t in traces if sizes[t.question_key] > 1], 1, seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_data": None, "model_name_or_path": "/nowhere"}, "eval_strategy needs eval_data"),
        (
            {"model_name_or_path": "/nowhere"},
            "/nowhere is gone; give its folder or Hub id as model_name_or_path",
        ),
        ({"lora_r": 0}, "lora_r must be at least 1, not 0"),
        ({"lora_dropout": 2}, "lora_dropout must be at least 0 and below 1, not 2"),
        ({"lora_dropout": -0.1}, "lora_dropout must be at least 0 and below 1, not -0.1"),
        ({"lora_target_modules": "nope_proj"}, "this training cannot be set up: Target modules"),
        ({"lora_target_modules": "'.*(q_proj'"}, "'.*(q_proj' is neither a name nor a regular expression"),
        ({"head_hidden_size": 0}, "head_hidden_size must be at least 1, not 0"),
        ({"head_hidden_size": -3}, "head_hidden_size must be at least 1, not -3"),
        ({"learning_rate": -1}, "learning_rate must be a number from 0 up, not -1"),
        ({"learning_rate": "nan"}, "learning_rate must be a number from 0 up, not nan"),
        ({"learning_rate": "inf"}, "learning_rate must be a number from 0 up, not inf"),
        ({"max_length": 1}, "max_length must be at least 2, not 1"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch must be at least 1, not 0"),
        ({"model_name_or_path": "{no_tokenizer}"}, "cannot load the tokenizer"),
        ({"report_to": "clearml"}, "this training cannot be set up: ClearMLCallback requires"),
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, "galore"),
        ({"eval_data": "{unlabelled}"}, "eval_data: no trace has a label, so there is nothing to measure"),
        ({"test_data": "{unlabelled}"}, "test_data: no trace has a label, so there is nothing to measure"),
        ({"output_dir": "{file}"}, "cannot be made (File exists)"),
        ({"output_dir": "{file}/run"}, "cannot be made (Not a directory)"),
    ],
)
def test_bad_settings_end_with_2_and_one_line(recipe, tmp_path, tiny_model_dir, capsys, changes, message):
    """Before anything is computed or written."""
    (tmp_path / "file").write_text("")
    shutil.copytree(tiny_model_dir(), tmp_path / "base", ignore=shutil.ignore_patterns("tok*"))
    write_traces([Trace("How many?", [Step("Count."), Step("Done.")])], tmp_path / "unlabelled.jsonl")
    places = {
        "file": tmp_path / "file",
        "no_tokenizer": tmp_path / "base",
        "unlabelled": tmp_path / "unlabelled.jsonl",
    }
    changes = {k: v.format(**places) if isinstance(v, str) else v for k, v in changes.items()}
    file = recipe(**changes)
    capsys.readouterr()
    assert prm(["train", file]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("prm: ")] == lines[-1:] and message in lines[-1]
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores of a process")
@pytest.mark.parametrize("wanted", [None, "1"])
def test_without_a_gpu_all_cores_work(tmp_path, wanted):
    """`accelerate launch` gives its process one thread, wanted or not."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import torch\nfrom prm.train import _use_every_core\n"
        "_use_every_core()\nprint(torch.get_num_threads())\n"
    )
    env = {k: v for k, v in ENV.items() if k != "OMP_NUM_THREADS"} | (
        {"OMP_NUM_THREADS": wanted} if wanted else {}
    )
    words = ["--config_file", str(REPO / "accelerate_configs" / "single.yaml"), str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(os.sched_getaffinity(0))
    alone = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert wanted is None or int(alone.stdout) == int(wanted)  # not launched: what is said is done


# Killed

#: Ends the process by signal `KILL_BY` at its moment number `KILL_AT`, and says inside which calls. Moments
#: lie before and after each step, each forward in it, and each writing, renaming and removing of files; with
#: `KILL_IN` only those inside calls of this name count.
KILLED = """
import os, pathlib, shutil, signal, sys, torch
import safetensors.torch, prm.training.trainer, prm.modeling.process_reward_model as model, prm.train

count, inside = 0, []

def moment():
    global count
    count += os.environ.get("KILL_IN", "") in ["", *inside]
    if count == int(os.environ["KILL_AT"]):
        print("killed inside", inside, file=sys.stderr, flush=True)
        os.kill(os.getpid(), int(os.environ["KILL_BY"]))

def watched(function):
    def call(*args, **kwargs):
        moment()
        inside.append(function.__name__)
        result = function(*args, **kwargs)
        inside.pop()
        moment()
        return result
    return call

trainer = prm.training.trainer.PRMTrainer
trainer.training_step = watched(trainer.training_step)
trainer.compute_loss = watched(trainer.compute_loss)
torch.save, shutil.rmtree = watched(torch.save), watched(shutil.rmtree)
model.save_file = watched(model.save_file)
pathlib.Path.write_text = watched(pathlib.Path.write_text)
pathlib.Path.rename = watched(pathlib.Path.rename)
trainer.calibrate = watched(trainer.calibrate)
try:
    prm.train.main(sys.argv[1:])
except KeyboardInterrupt:
    sys.exit(130)
print("moments", count)
"""


#: Ends the process when the second checkpoint's optimizer, the fourth file of its kind, is to be written.
KILLED_SAVING = """
import os, sys, torch, prm.train

real, calls = torch.save, []

def save(*args, **kwargs):
    calls.append(args)
    if len(calls) == 4:
        os.kill(os.getpid(), 9)
    real(*args, **kwargs)

torch.save = save
prm.train.main(sys.argv[1:])
"""


def test_killed_while_saving_and_run_again(recipe, tmp_path):
    """kill -9 when the second checkpoint has no optimizer yet; the same command goes on from the first."""
    killed = launch(recipe(), code=KILLED_SAVING)
    assert killed.returncode == -9, killed.stderr
    run = tmp_path / "run"
    half = run / "checkpoint-4"
    assert (half / "head.safetensors").exists() and not (half / "complete.json").exists()
    assert (run / "checkpoint-2" / "complete.json").exists()
    main([recipe()])
    main([recipe(), "--output_dir", str(tmp_path / "whole")])
    assert_same_run(run, tmp_path / "whole")
    assert log_of(run)[0] == log_of(tmp_path / "whole")[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(recipe, tmp_path, seed):
    """Once in a step, then five times wherever it is (steps, saving, clearing away), one of them by Ctrl-C:
    the end is the same to the bit.
    """
    whole = launch(
        recipe(save_total_limit=1),
        "--output_dir",
        str(tmp_path / "whole"),
        code=KILLED,
        KILL_AT="0",
        KILL_BY="9",
    )
    assert whole.returncode == 0, whole.stderr
    moments = int(re.search(r"moments (\d+)", whole.stdout)[1])
    assert moments > 60
    rng = random.Random(seed)
    in_a_step = {"KILL_IN": "training_step", "KILL_AT": str(rng.randint(5, 12)), "KILL_BY": "9"}
    stopped = launch(recipe(save_total_limit=1), code=KILLED, **in_a_step)
    assert stopped.returncode == -9 and "killed inside ['training_step']" in stopped.stderr, stopped.stderr
    for signal_number, status in ((9, -9), (9, -9), (2, 130), (9, -9), (9, -9)):
        # Each run goes on from the last whole checkpoint: what is left for the fifth is a seventh at least.
        at = str(rng.randint(1, moments // 7))
        stopped = launch(recipe(save_total_limit=1), code=KILLED, KILL_AT=at, KILL_BY=str(signal_number))
        assert stopped.returncode == status and "killed inside" in stopped.stderr, stopped.stderr
    last = launch(recipe(save_total_limit=1))
    assert last.returncode == 0, last.stderr
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert not list((tmp_path / "run").glob("*.partial")) and not list((tmp_path / "run").glob("*.old"))


@pytest.mark.slow
def test_control_c(recipe, tmp_path):
    """One line and status 130, from the script as from `prm`."""
    import signal
    import time

    process = subprocess.Popen(
        [sys.executable, str(REPO / "prm" / "train.py"), recipe(num_train_epochs=1000)],
        env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "run" / "checkpoint-2" / "complete.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "prm: interrupted; run the same command again to go on"
    assert "Traceback" not in err
