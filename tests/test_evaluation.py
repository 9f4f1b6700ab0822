"""Scored files in; metrics.json, predictions.jsonl, report.html and a table out; the metric of `evaluate`."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from prm.cli import main
from prm.errors import InputError
from prm.evaluation import baselines, bootstrap_intervals, first_error_metrics
from prm.evaluation.metrics import RATES, STEP_METRICS
from prm.evaluation.report import ORACLE, evaluate_predictions, evaluate_traces, metrics_table
from prm.traces.formats import load_traces
from prm.traces.trace import Step, Trace

ROOT = Path(__file__).resolve().parent.parent


def row(labels, scores=None, question="Which singers are older than 30?", **more):
    steps = [{"text": f"Take the singers.\ns{i} AS (SELECT 1)", "label": x} for i, x in enumerate(labels)]
    wrong = [step for step in steps if step["label"] == 0]
    if wrong:
        wrong[0]["error"] = "comparison"
    return {"question": question, "steps": steps, "db_id": "concert"} | (
        {"scores": scores} if scores else {}
    ) | more  # fmt: skip


ROWS = [
    row([1, 0], [0.9, 0.3], question="a", origin={"kept": [1, "é"]}),
    row([1, 1], [0.8, 0.7], question="a"),
    row([0, 0], [0.6, 0.2], question="b"),
    row([1], [0.9], question="c"),
    row([None], [0.1], question="d"),
]
DEV = [row([1, 0], [0.9, 0.62]), row([1, 1], [0.8, 0.7])]  # all right on (.62, .7]


@pytest.fixture
def jsonl(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_files_of_an_evaluation(jsonl, tmp_path):
    out = tmp_path / "new" / "eval"
    train = jsonl("train.jsonl", [row([1, 0]), row([1, 1]), row([1, 0])])
    scored = jsonl("scored.jsonl", ROWS)
    dev = jsonl("dev.jsonl", DEV)
    returned = evaluate_predictions([scored], str(out), threshold_data=[dev], train_data=[train])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))

    # the single numbers are those of the public function
    scores = [r["scores"] for r in ROWS]
    labels = [[step["label"] for step in r["steps"]] for r in ROWS]
    single = first_error_metrics(scores, labels, threshold=0.66, threshold_from=f"best f1 on {dev}")
    assert metrics["threshold"] == pytest.approx(0.66)
    for name in set(single) - {"threshold"}:
        assert metrics[name] == single[name], name
    assert metrics["first_error_acc"] == 1.0  # a: 1, none; b: 0; c: none
    assert metrics["n_questions"] == 3 and metrics["data"] == [scored]
    assert set(metrics["ci"]) == {*RATES, *STEP_METRICS}
    # training data: 3 of 3, then 1 of 3 right, so position_only flags index 1: wrong in b and once in a
    assert metrics["baselines"]["position_only"]["first_error_acc"] == 2 / 4
    assert metrics["by"]["db_id"]["concert"]["n_traces"] == 4
    assert metrics["by"]["error"]["comparison"]["error_acc"] == 1.0

    written = load_traces(out / "predictions.jsonl")
    assert [t.extra["predicted_first_error"] for t in written] == [1, -1, 0, -1, 0]
    assert [t.scores for t in written] == scores
    assert written[0].extra["origin"] == {"kept": [1, "é"]}
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "predictions.jsonl", "report.html"]


@pytest.mark.parametrize(
    ("arguments", "threshold", "words"),
    [
        ([], 0.5, "default"),
        (["--threshold", "0.25"], 0.25, "given"),
        (["--threshold", "oracle"], 0.65, ORACLE),  # all right on (.6, .7]
        (["--threshold-data", "{dev}"], 0.66, "best f1 on {dev}"),
        (["--rule", "most-likely"], None, None),
    ],
)
def test_the_threshold_is_always_named(arguments, threshold, words, jsonl, tmp_path, capsys):
    dev = jsonl("dev.jsonl", DEV)
    arguments = [a.format(dev=dev) for a in arguments]
    out = tmp_path / "out"
    scored = jsonl("scored.jsonl", ROWS)
    assert main(["evaluate", "--predictions", scored, "--output", str(out), *arguments]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["threshold"] == (None if threshold is None else pytest.approx(threshold))
    assert metrics["threshold_from"] == (None if words is None else words.format(dev=dev))
    printed = capsys.readouterr().out
    assert "first_error_acc" in printed and str(out / "report.html") in printed.replace("\n", "")
    report = (out / "report.html").read_text()
    assert "most likely first error" in report if words is None else words.format(dev=dev) in report


@pytest.mark.parametrize(
    ("rows", "arguments", "error"),
    [
        (
            [row([1], [0.5]), row([1])],
            [],
            "{file}:2: has no 'scores' (1 of 2 traces); score it with prm score",
        ),
        ([row([1])], ["--on-bad-rows", "skip"], "{file}:1: has no 'scores'"),
        ([row([None], [0.5])], [], "no trace has a label"),
        ([row([1], [1.5])], [], "{file}:1: 'scores' must be numbers in [0, 1]"),
        ([row([1], [0.5])], ["--threshold", "0.5", "--threshold-data", "{file}"], "give one of them"),
        ([row([1], [0.5])], ["--threshold", "0.5", "--rule", "most-likely"], "uses no threshold"),
        ([row([1], [0.5])], ["--threshold-data", "{empty}"], "{empty}: no trace has a label"),
        ([row([1], [0.5])], ["--output", "{file}"], "{file}"),  # a file where the folder should be
    ],
)
def test_bad_input_gives_one_line_and_status_2(rows, arguments, error, jsonl, tmp_path, capsys):
    names = {"file": jsonl("scored.jsonl", rows), "empty": jsonl("empty.jsonl", [row([None], [0.5])])}
    arguments = ["--output", str(tmp_path / "out"), *(a.format(**names) for a in arguments)]
    assert main(["evaluate", "--predictions", names["file"], *arguments]) == 2
    message = capsys.readouterr().err
    assert error.format(**names) in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_threshold_data_without_clean_traces_is_chosen_by_first_error_acc(jsonl, tmp_path):
    dev = jsonl("dev.jsonl", [row([1, 0], [0.9, 0.3]), row([0], [0.5])])  # both right on (.5, .9]
    scored = jsonl("scored.jsonl", ROWS)
    metrics = evaluate_predictions([scored], str(tmp_path / "out"), threshold_data=[dev])
    assert metrics["threshold"] == pytest.approx(0.7)
    assert metrics["threshold_from"] == f"best first_error_acc on {dev}"


def test_unscored_traces_are_skipped_on_request(jsonl, tmp_path):
    scored = jsonl("scored.jsonl", [*ROWS, row([1])])
    assert evaluate_predictions([scored], str(tmp_path / "out"), on_bad_rows="skip")["n_traces"] == 4


def test_traces_from_python_need_scores(tmp_path):
    with pytest.raises(InputError, match="trace 1 has no 'scores'"):
        evaluate_traces([Trace("q", [Step("s", 1)], scores=[0.5]), Trace("q", [Step("s", 1)])], tmp_path)


def test_equal_input_gives_equal_files(jsonl, tmp_path):
    scored = jsonl("scored.jsonl", ROWS)
    for name in ("one", "two"):
        evaluate_predictions([scored], str(tmp_path / name))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("rule", ["threshold", "most-likely"])
def test_intervals_are_over_questions_and_baselines_by_the_same_rule(rule, tmp_path):
    traces = [Trace.from_dict(r) for r in ROWS]
    scores, labels = [t.scores for t in traces], [t.labels for t in traces]
    found = evaluate_traces(traces, tmp_path, threshold=0.25, rule=rule, position_means=[0.6, 0.3])
    by_question = bootstrap_intervals(scores, labels, groups=list("aabcd"), threshold=0.25, rule=rule)
    assert found["ci"] == by_question
    assert found["ci"] != bootstrap_intervals(scores, labels, threshold=0.25, rule=rule)
    # position_only flags index 1, below .5, too late for b; yet P is .4, .3, none .3, so index 0 is likelier
    assert found["baselines"] == baselines([0.6, 0.3], labels, rule=rule)
    assert found["baselines"]["position_only"]["late_rate"] == {"threshold": 1 / 2, "most-likely": 0}[rule]


def test_the_traces_given_are_left_alone(tmp_path):
    traces = [Trace.from_dict(r) for r in ROWS]
    evaluate_traces(traces, tmp_path, model="m")
    assert [t.to_dict() for t in traces] == [Trace.from_dict(r).to_dict() for r in ROWS]


def test_no_torch_and_no_transformers(jsonl, tmp_path):
    scored, out = jsonl("scored.jsonl", ROWS), str(tmp_path / "out")
    code = (
        "import sys; from prm.cli import main; "
        f"assert main(['evaluate', '--predictions', {scored!r}, '--output', {out!r}]) == 0; "
        "print([m for m in ('torch', 'transformers', 'evaluate', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# The report


class Page(HTMLParser):
    """Elements, attributes and text as a browser would see them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}</style></details>"


def test_hostile_text_is_inert(tmp_path):
    hostile = Trace.from_dict(
        row([1, 0], [0.9, 0.2], question=HOSTILE, db_id=HOSTILE, schema=HOSTILE, evidence=HOSTILE)
        | {"subset": HOSTILE, "gold_sql": HOSTILE}
    )
    for step in hostile.steps:
        step.text, step.error = HOSTILE + "\n" + HOSTILE, HOSTILE
    evaluate_traces(
        [hostile], tmp_path, model=HOSTILE, threshold=0.5, threshold_from=HOSTILE, info={"x": HOSTILE}
    )
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    text = "".join(page.text)
    # question, model, threshold, info, db_id and its row, evidence, schema, gold, steps …: all there, as text
    assert text.count("<script>alert(1)</script>") >= 12
    assert text.count("{{ 7 * 7 }}") == text.count("<script>alert(1)</script>")
    assert page.tags.count("details") == 2


def test_the_report_reaches_for_nothing(tmp_path):
    evaluate_traces([Trace.from_dict(r) for r in ROWS], tmp_path, model="m")
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "data"}
    assert "url(" not in html and "@import" not in html and "http://" not in html and "https://" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert (
        page.tags.count("svg") == 6 and "nan" not in html.lower().split("<main>")[1].split("traces</h2>")[0]
    )


def test_the_report_shows_what_happened(tmp_path):
    evaluate_traces([Trace.from_dict(r) for r in ROWS], tmp_path, model="my-model", threshold=0.5)
    html = (tmp_path / "report.html").read_text()
    # a: found at 1, and clean; b: labelled 0, flagged at 1; c: clean. The unlabelled one is not shown.
    verdicts = re.findall(r'<span class="verdict \w+">(.*?)</span>', html)
    assert sorted(verdicts) == ["clean, not flagged", "clean, not flagged", "flagged too late", "found"]
    assert html.count("<b>labelled first error</b>comparison") == 2
    assert html.count("<b>predicted first error</b>") == 2
    colours = re.findall(r'<li class="(\w+)" style="--s: ([\d.]+)"><span class="score">([\d.]+)</span>', html)
    assert ("up", "0.800", "0.900") in colours and ("down", "0.400", "0.300") in colours and len(colours) == 7
    assert "my-model" in html


def test_twenty_traces_of_every_kind(tmp_path):
    kinds = {
        "exact": ([1, 0], [0.9, 0.1]),
        "early": ([1, 0], [0.1, 0.1]),
        "late": ([0, 0], [0.9, 0.1]),
        "miss": ([0, 0], [0.9, 0.9]),
        "right": ([1, 1], [0.9, 0.9]),
        "alarm": ([1, 1], [0.9, 0.1]),
    }
    rows = [
        row(*kinds[kind], question=f"{kind} {i}")
        for kind in kinds
        for i in range(2 if kind == "late" else 40)
    ]
    evaluate_traces([Trace.from_dict(r) for r in rows], tmp_path / "one")
    shown = _shown_questions(tmp_path / "one")
    counts = {kind: sum(q.startswith(kind) for q in shown) for kind in kinds}
    # dealt in turn: six a round, late runs out after two rounds
    assert (
        len(set(shown)) == 20
        and counts["late"] == 2
        and min(counts.values()) == 2
        and max(counts.values()) == 4
    )
    # the choice does not depend on the order of the file
    evaluate_traces([Trace.from_dict(r) for r in reversed(rows)], tmp_path / "two")
    assert sorted(_shown_questions(tmp_path / "two")) == sorted(shown)


def _shown_questions(folder):
    text = (folder / "report.html").read_text()
    return [part.split("</p>")[0] for part in text.split("<header><p>")[1:]]


@pytest.mark.parametrize("rule", ["threshold", "most-likely"])
@pytest.mark.parametrize(
    "rows",
    [
        [row([1], [0.0])],
        [row([0], [1.0])],
        [row([1, 1], [1.0, 1.0]), row([1], [1.0])],
        [row([0, None], [0.0, 0.0]), row([0], [0.0])],
        [row([1] * 30 + [0], [0.9] * 31), row([0] + [None] * 40, [0.2] * 41)],
        [row([1, 0], [0.5, 0.5])],
    ],
)
def test_reports_of_odd_data(rows, rule, tmp_path):
    evaluate_traces([Trace.from_dict(r) for r in rows], tmp_path, rule=rule)
    html = (tmp_path / "report.html").read_text()
    assert Page(html).tags.count("article") == len(rows)
    assert ">nan<" not in html and "None" not in html


# The table


def test_the_table_shows_model_interval_and_baselines(tmp_path):
    metrics = evaluate_traces(
        [Trace.from_dict(r) for r in ROWS], tmp_path, threshold=0.65, threshold_from="[/b]"
    )
    out = io.StringIO()
    Console(file=out, width=80).print(metrics_table(metrics))  # the width of output that goes to a file
    lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
    # model 1, interval [1, 1], never flag 2 of 4, flag first 1 of 4, position unknown
    cells = re.split(r"\s{2,}", lines["first_error_acc"].strip())
    assert cells == ["first_error_acc ↑", "1.000", "1.000 – 1.000", "0.500", "0.250", "–"]
    assert "position" in out.getvalue() and "…" not in out.getvalue()
    assert "threshold 0.65 ([/b])" in out.getvalue()  # brackets are no markup


# The metric of `evaluate`


def test_metric_by_path_and_by_class_offline(tmp_path):
    code = """
import json, sys
import evaluate
from prm.evaluation.processbench_metric import ProcessBenchMetric
data = dict(
    predictions=[[0.9, 0.2], [0.8, 0.7, 0.3], [0.3000000001], []],
    references=[[1, 0], [1, None, -100], [1], []],
)
loaded = evaluate.load(sys.argv[1]).compute(**data, threshold=0.3)
ours = ProcessBenchMetric(keep_in_memory=True)
print(json.dumps([loaded, ours.compute(**data, threshold=0.3), ours.compute(**data, rule="most-likely")]))
"""
    environment = os.environ | {
        "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    script = ROOT / "prm" / "evaluation" / "processbench_metric.py"
    done = subprocess.run(
        [sys.executable, "-c", code, str(script)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    loaded, ours, likely = json.loads(done.stdout.splitlines()[-1])
    scores = [[0.9, 0.2], [0.8, 0.7, 0.3], [0.3000000001], []]  # float32 would put the last below .3
    labels = [[1, 0], [1, None, None], [1], []]
    assert loaded == ours == first_error_metrics(scores, labels, threshold=0.3)
    assert loaded["correct_acc"] == 1.0
    assert likely == first_error_metrics(scores, labels, rule="most-likely")
