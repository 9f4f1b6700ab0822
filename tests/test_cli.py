"""The `prm` command: what it prints, its exit statuses, and that it loads nothing heavy before it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from prm.cli import main
from prm.traces.formats import load_traces, write_traces
from prm.traces.inspection import trace_statistics
from prm.traces.trace import Step, Trace

TRL = {"prompt": "p", "completions": ["a", "b", "c"], "labels": [True, False, True]}
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "peft",
    "accelerate",
    "pyarrow",
    "numpy",
    "sqlglot",
    "rich",
)


def prm(*arguments, **environment):
    """Run the command as a user does; returns status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "prm.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def modules_after(code, *names):
    check = f"import sys\n{code}\nprint([m for m in {names!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_loads_nothing_heavy(argument):
    code = (
        "from prm.cli import main\n"
        f"try:\n    main([{argument!r}])\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert modules_after(code, *HEAVY) == "[]"


def test_reading_traces_needs_neither_torch_nor_transformers(tmp_path):
    write_traces([Trace("q", [Step("a", 1)])], tmp_path / "t.parquet")
    code = (
        "from prm.cli import main\n"
        f"assert main(['convert', '--from', 'native', '--input', {str(tmp_path / 't.parquet')!r}, "
        f"'--output', {str(tmp_path / 't.jsonl')!r}]) == 0\n"
        f"assert main(['inspect', {str(tmp_path / 't.jsonl')!r}]) == 0"
    )
    assert modules_after(code, "torch", "transformers", "datasets", "evaluate") == "[]"


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for verb in ("train", "build", "rollout", "judge", "convert", "inspect", "score", "evaluate"):
        assert f"    {verb} " in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["convert", "--input", "x"],
        ["inspect"],
        ["inspect", "x", "--labels", "loose"],
        ["inspect", "x", "--on-bad-rows", "ignore"],
    ],
)
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: prm" in capsys.readouterr().err


BUILD = ["build", "--layout", "table", "--root", "r", "--output", "o"]
EVALUATE = ["evaluate", "--output", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ([*EVALUATE, f"--threshold={value}"], f"must be a number in [0, 1] or 'oracle', not {value!r}")
            for value in ("abc", "1.5", "-0.1", "nan")
        ),
        *(
            ([*BUILD, f"--workers={value}"], f"must be a whole number of at least 1, not {value!r}")
            for value in ("0", "two", "1.5")
        ),
        *(
            (
                [*BUILD, f"--shard={value}"],
                f"must be I/N with whole numbers 1 <= I <= N, as 1/4, not {value!r}",
            )
            for value in ("x", "1", "0/4", "5/4", "1/4/2")
        ),
    ],
)
def test_values_of_options_that_cannot_be(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    option = arguments[-1].partition("=")[0]
    assert f"error: argument {option}: {message}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prm evaluate wants either --model with --data, or --predictions"),
        (["--model", "m", "--predictions", "p"], "prm evaluate wants either --model with --data, or"),
        (["--model", "m"], "prm evaluate --model wants --data FILE"),
        (["--predictions", "p", "--data", "d"], "--data goes with --model;"),
        (["--predictions", "p", "--all-checkpoints"], "--all-checkpoints goes with --model;"),
        (["--model", "m", "--data", "d", "--train-data", "t"], "--train-data goes with --predictions;"),
    ],
)
def test_options_of_evaluate_that_exclude_each_other(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([*EVALUATE, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"prm: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_with_2_and_one_line(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(TRL) + '\n{"prompt": "p", "completions": ["a"], "labels": []}\n')
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    status, out, err = prm("convert", "--from", "trl", "--input", file, "--output", output)
    assert (status, out) == (2, "")
    assert err == f"prm: {file}:2: 1 completions but 0 labels; give one label a completion\n"
    assert output.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "--from", "prm80k", "--input", "{t}", "--output", "{o}"], "did you mean prm800k?"),
        (["convert", "--from", "trl", "--input", "{t}x", "--output", "{o}"], "did you mean {t}?"),
        (
            ["convert", "--from", "verdict", "--input", "{t}", "--output", "{o}"],
            "{t}:1: 'question', 'reasoning' missing",
        ),
        (["convert", "--from", "trl", "--input", "{t}", "--output", "{d}"], "{d}: is a folder; name a file"),
        (["inspect", "{d}/none"], "{d}/none: there is no such file"),
        (["inspect", "{t}", "--json", "{d}"], "{d}: is a folder; name a file"),
    ],
)
def test_other_bad_input(tmp_path, capsys, arguments, message):
    names = {"t": str(tmp_path / "t.jsonl"), "o": str(tmp_path / "o.jsonl"), "d": str(tmp_path)}
    (tmp_path / "t.jsonl").write_text(json.dumps(TRL) + "\n")
    assert main([argument.format(**names) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("prm: ")
    assert err.count("\n") == 1
    assert message.format(**names) in err
    assert not (tmp_path / "o.jsonl").exists()


def test_a_full_disk_is_said_in_one_line(tmp_path):
    """As where a file may not grow any further: nothing half-written stays."""
    write_traces([Trace("q", [Step("a" * 1000)]) for _ in range(300)], tmp_path / "t.jsonl")
    code = (
        "import resource, signal, sys\nfrom prm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\nsys.exit(main(sys.argv[1:]))"
    )
    convert = ["convert", "--from", "auto", "--input", tmp_path / "t.jsonl", "--output", tmp_path / "u.jsonl"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, convert)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "prm: the output cannot be written (File too large); make room and run the same command again\n"
    )
    assert os.listdir(tmp_path) == ["t.jsonl"]


def test_a_hub_id_without_network_is_bad_input():
    status, _, err = prm("inspect", "nobody/nothing", HF_HUB_OFFLINE="1")
    assert status == 2
    assert err.startswith("prm: nobody/nothing: is no file here, and cannot be loaded from the Hub: ")
    assert err.count("\n") == 1


def test_convert_skips_folds_and_says_so(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(TRL) + "\nnonsense\n")
    status, out, err = prm(
        "convert", "--from", "auto", "--input", file, "--output", tmp_path / "o.jsonl",
        "--labels", "prefix", "--on-bad-rows", "skip",
    )  # fmt: skip
    assert (status, out) == (0, "")
    assert err.splitlines() == [
        f"skipped 1 of 2 rows: 1 x not JSON: Expecting value at column N (first: {file}:2)",
        "folded the labels of 1 traces: after the first error all are wrong",
        f"wrote 1 traces from 2 rows to {tmp_path / 'o.jsonl'}",
    ]
    assert [trace.labels for trace in load_traces(tmp_path / "o.jsonl")] == [[1, 0, 0]]


def test_convert_writes_to_a_pipe(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(TRL) + "\n")
    status, out, _ = prm(
        "convert", "--from", "trl", "--input", tmp_path / "t.jsonl", "--output", "/dev/stdout"
    )
    assert status == 0
    assert json.loads(out)["question"] == "p"


EXAMPLES = [
    Trace(
        "q1",
        [Step("aa", 1), Step("bb", 0, error="join"), Step("cc", 0, error="join")],
        db_id="d1",
        schema="ssss",
    ),
    Trace(
        "q1",
        [Step("aa", 1), Step("bb", 0, error="join"), Step("cc", 0, error="join")],
        db_id="d1",
        schema="ssss",
    ),
    Trace(
        "q1",
        [Step("aa", 1), Step("bb", 1), Step("cc", 1)],
        db_id="d1",
        schema="ssss",
        label_source="execution",
    ),
    Trace("q2", [Step("a", 0.75), Step("b")], db_id="d2"),
    Trace("q1", [Step("[bold]a", None)], db_id="d2", label_scheme="step", extra={"prompt": "pppppp"}),
]


def test_statistics_of_traces():
    assert trace_statistics(EXAMPLES) == {
        "traces": 5,
        "questions": 3,  # q1 of d1, q2 of d2, q1 of d2
        "databases": 2,
        "steps": 12,
        "step_labels": {"right": 5, "wrong": 4, "soft": 1, "unlabelled": 2},
        "trace_labels": {"right": 2, "wrong": 2, "unlabelled": 1},
        "steps_per_trace": {"min": 1, "median": 3, "mean": 2.4, "p95": 3, "max": 3},
        "first_error": {"-1": 2, "1": 2},
        "error_categories": {"join": 4},
        "label_sources": {"not given": 4, "execution": 1},
        "label_schemes": {"prefix": 4, "step": 1},
        "duplicates": 1,
        "contradictions": 1,  # the third says of the first one's steps that they are right
        "prompt_characters": {"min": 2, "median": 6, "mean": 5.2, "p95": 6, "max": 6},
        "steps_characters": {"min": 2, "median": 6, "mean": 5.4, "p95": 7, "max": 7},
    }


def test_inspect_prints_and_writes_the_statistics(tmp_path):
    write_traces(EXAMPLES[:3], tmp_path / "a.jsonl")
    write_traces(EXAMPLES[3:], tmp_path / "[b].parquet")
    status, out, err = prm(
        "inspect",
        tmp_path / "a.jsonl",
        tmp_path / "[b].parquet",
        "--json",
        tmp_path / "s.json",
        COLUMNS="200",
    )
    assert (status, err) == (0, "")
    for shown in (
        "[b].parquet",
        "5 from 5 rows",
        "right 5 (41.7%), wrong 4 (33.3%), soft 1 (8.3%), unlabelled 2 (16.7%)",
        "no error 2 (50.0%), step 1 2 (50.0%)",
        "join 4 (100.0%)",
        "their step alone 1 (20.0%)",
    ):
        assert shown in out
    written = json.loads((tmp_path / "s.json").read_text())
    assert written.items() >= trace_statistics(EXAMPLES).items()
    assert written["files"] == [str(tmp_path / "a.jsonl"), str(tmp_path / "[b].parquet")]
    assert (written["rows"], written["folded"], written["skipped"]) == (5, 0, {})


def test_inspect_wants_whole_files_unless_told(tmp_path, capsys):
    file = tmp_path / "t.jsonl"
    rising = {"question": "q", "steps": [{"text": "a", "label": 0}, {"text": "b", "label": 1}]}
    file.write_text(json.dumps(rising) + "\n" + json.dumps(TRL) + "\n")
    assert main(["inspect", str(file)]) == 2
    assert f"prm: {file}:1: step 1 is labelled right after" in capsys.readouterr().err
    assert main(["inspect", str(file), "--on-bad-rows", "skip", "--json", str(tmp_path / "s.json")]) == 0
    (reason,) = json.loads((tmp_path / "s.json").read_text())["skipped"].items()
    assert reason[0].startswith("step N is labelled right after") and reason[1] == 1
    assert main(["inspect", str(file), "--labels", "prefix", "--json", str(tmp_path / "s.json")]) == 0
    statistics = json.loads((tmp_path / "s.json").read_text())
    assert (statistics["folded"], statistics["step_labels"]["wrong"]) == (2, 4)
