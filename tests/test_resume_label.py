"""`prm label` that is killed goes on where it stopped: same bytes, nothing twice, any number of workers."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from small_databases import SINGERS
from test_answers import WORKED

from prm.cli import _parser, main
from prm.labeling.answers import label
from prm.traces.formats import load_traces
from prm.traces.provenance import made_by

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of two databases, `candidates.jsonl` with questions to them in turn, some of which give
    nothing, and the traces labelled in one go."""
    root = tmp_path_factory.mktemp("answers")
    for name in ("singers", "choir"):
        (root / "databases" / name).mkdir(parents=True)
        with sqlite3.connect(root / "databases" / name / f"{name}.sqlite") as connection:
            connection.executescript(SINGERS)
        connection.close()
    rows = [
        {"id": f"{i}-{db}", "question": f"Who? ({i})", "db_id": db, "gold_sql": gold,
         "candidates": [{"steps": steps}, {"sql": gold}, {"sql": "SELECT name FROM singer WHERE age > 35"}]}
        for i, (gold, steps, *_) in enumerate([*WORKED.values(), ("SELECT nothing", ["SELECT 1"])])
        for db in ("singers", "choir")
    ]  # fmt: skip
    (root / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label(root / "candidates.jsonl", root / "databases", root / "whole.jsonl")
    return root


def start(corpus, output, *options):
    command = [sys.executable, "-m", "prm.cli", "label", "--data", str(corpus / "candidates.jsonl")]
    command += ["--databases", str(corpus / "databases"), "--output", str(output), *options]
    return subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True)


def lines_of(path):
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_killed_again_and_again_by_any_number_of_workers(corpus, tmp_path):
    """kill -9 once so many questions are done; what is done is not done again, and the output, statistics
    and card are those of one uninterrupted run."""
    output = tmp_path / "whole.jsonl"
    journal = Path(f"{output}.journal")
    n, done = lines_of(corpus / "candidates.jsonl"), 0
    for workers, until in (("2", 10), ("1", 24), ("3", 40)):
        process = start(corpus, output, "--workers", workers)
        while lines_of(journal) < until and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL and not output.exists()
        going_on = re.search(rf"prm: (\d+) of {n} questions are done already: going on", said)
        assert (int(going_on[1]) if going_on else 0) == done
        done = lines_of(journal) - 1
        assert until - 1 <= done < n
    process = start(corpus, output, "--workers", "2")
    _, said = process.communicate()
    assert process.returncode == 0
    assert f"prm: {done} of {n} questions are done already: going on\n" in said
    names = ["whole.jsonl", "whole.jsonl.md", "whole.jsonl.stats.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()


def test_traces_come_in_the_order_of_the_answers(corpus):
    asked = [json.loads(line)["id"] for line in (corpus / "candidates.jsonl").read_text().splitlines()]
    made = [trace.id.rpartition("-") for trace in load_traces(corpus / "whole.jsonl")]
    assert made == sorted(made, key=lambda name: (asked.index(name[0]), int(name[2])))
    assert {group for group, _, _ in made} == {name for name in asked if f"{len(WORKED)}-" not in name}


def test_other_answers_and_other_settings_are_not_mixed_in(corpus, tmp_path, capsys):
    output = tmp_path / "t.jsonl"
    process = start(corpus, output)
    while lines_of(Path(f"{output}.journal")) < 10 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = (corpus / "candidates.jsonl").read_text().splitlines()
    (tmp_path / "c.jsonl").write_text("\n".join(rows[:2]).replace("age > 35", "age > 36"))
    label(tmp_path / "c.jsonl", corpus / "databases", output, timeout=6.0)
    told = "is of an unfinished prm label with other settings (questions, timeout): starting afresh\n"
    assert told in capsys.readouterr().err
    assert "36" in output.read_text() and "35" not in output.read_text()


def test_nothing_is_left_in_the_folder_for_temporary_files(corpus, tmp_path, monkeypatch):
    """The variants of each process go with it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setitem(ENV, "TMPDIR", str(tmp_path / "temporary"))
    for workers in ("1", "2"):
        process = start(corpus, tmp_path / "t.jsonl", "--workers", workers)
        process.communicate()
        assert process.returncode == 0 and not list((tmp_path / "temporary").iterdir())


def test_a_device_is_no_output(corpus, capsys):
    paths = ["--data", str(corpus / "candidates.jsonl"), "--databases", str(corpus / "databases")]
    assert main(["label", *paths, "--output", "/dev/null"]) == 2
    assert "prm: /dev/null: is no regular file" in capsys.readouterr().err


CARD = r"""# Step-labelled text-to-SQL traces \(whole\.jsonl\)

\d+ answers to \d+ questions over 2 databases, each cut into reasoning steps \(\d+ in all\), and each .+

## How the labels came to be

Every answer was run beside gold\. .+ Nobody labelled by hand, no model judged\.

\| label_source \| traces \| meaning \|
\| --- \| --- \| --- \|
\| execution \| (?P<execution>\d+) \| by running the SQL on the database: .+ \|
\| variant \| (?P<variant>\d+) \| by running the SQL on the variant .+ \|

## What is in it

\|  \|  \|
\| --- \| --- \|
\| answers to be labelled \| \d+, to \d+ questions \|
\| answers that gave no trace \| 6 \(gold_fails: 6\) \|
\| traces \| \d+, \d+ of them wrong \|
\| traces by evidence \| equal: \d+, (\w+: \d+(, )?)+ \|
\| right answers by the variants they were compared on \| (?:\d+: \d+(?:, )?)+ \|
\| first errors by step \(from 0\), where known \| 0: \d+, 1: \d+.* \|
\| steps without a label \| \d+ \|

## How it was made

```bash
prm label --data candidates\.jsonl --databases databases --timeout 5\.0 --on-bad-rows stop --output whole\.jsonl
```

Versions: nl2sql-prm \S+, sqlglot \S+, SQLite \S+, Python \S+\. The same command .+ sha256 `[0-9a-f]{64}`\. .+:

```bash
prm inspect --databases DATABASES whole\.jsonl
```

## Limits

- A label is a fact about results on these databases and variants of them\. .+
- A step is called right where .+
- Where the first wrong step was not found \(\d+\.\d% of the wrong answers\), .+
"""  # noqa: E501


def test_the_data_card(corpus):
    card = (corpus / "whole.jsonl.md").read_text(encoding="utf-8")
    found = re.fullmatch(CARD, card[card.index("# Step") :])
    assert found, card
    traces = load_traces(corpus / "whole.jsonl")
    kinds = Counter(trace.label_source.partition(":")[0] for trace in traces)
    assert {kind: int(found[kind]) for kind in ("execution", "variant")} == kinds
    assert {trace.extra["made_by"] for trace in traces} == {made_by("label")}
    assert str(corpus) not in card
    for line in re.findall(r"^prm (.+)$", card, re.M):
        assert _parser().parse_args(line.split()).run


def test_what_the_card_says_of_checking_holds(corpus, capsys):
    """`prm inspect --databases`, the card's own command."""
    file = str(corpus / "whole.jsonl")
    assert main(["inspect", "--databases", str(corpus / "databases"), file]) == 0
