"""A build that is killed, or runs out of disk, goes on where it stopped: same bytes, nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml
from test_build import QUESTIONS, SKIPPED, make_database, write_json

import prm
from prm.cli import main
from prm.labeling.build import build
from prm.labeling.cards import build_card
from prm.traces.formats import load_traces
from prm.traces.provenance import made_by

REPO = Path(__file__).parent.parent
ENV = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A Spider folder of 60 questions, some of which give nothing, and its traces built in one go."""
    root = tmp_path_factory.mktemp("corpus")
    make_database(root / "database" / "library" / "library.sqlite")
    asked = [*QUESTIONS, *((q, sql) for q, sql, reason in SKIPPED if reason != "gold_timeout")]
    entries = [
        {"db_id": "library", "question": f"{q} ({i})", "query": sql}
        for i, (q, sql) in enumerate(asked * 5)
    ]  # fmt: skip
    write_json(root / "dev.json", entries)
    build("spider", root, "dev", root / "whole.jsonl")
    return root


def start(corpus, output, *options, **popen):
    command = [sys.executable, "-m", "prm.cli", "build", "--layout", "spider", "--root", str(corpus)]
    command += ["--split", "dev", "--output", str(output), *options]
    return subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True, **popen)


def lines_of(path):
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def beside(output):
    return sorted(path.name for path in output.parent.iterdir())


def same_as_whole(corpus, output):
    """The traces, statistics and card of one uninterrupted build, and no other file."""
    name = output.name
    assert beside(output) == [name, f"{name}.md", f"{name}.stats.json"]
    assert output.read_bytes() == (corpus / "whole.jsonl").read_bytes()
    for suffix in (".stats.json", ".md"):
        made = Path(f"{output}{suffix}").read_text(encoding="utf-8")
        assert made.replace(name, "whole.jsonl") == (corpus / f"whole.jsonl{suffix}").read_text(
            encoding="utf-8"
        )


def test_killed_again_and_again_by_any_number_of_workers(corpus, tmp_path):
    """kill -9 once so many questions are done; what is done is not done again."""
    output = tmp_path / "whole.jsonl"
    journal = Path(f"{output}.journal")
    done = 0
    for workers, until in (("2", 10), ("1", 20), ("3", 36)):
        process = start(corpus, output, "--workers", workers)
        while lines_of(journal) < until and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL and not output.exists()
        going_on = re.search(r"prm: (\d+) of 60 questions are done already: going on", said)
        assert (int(going_on[1]) if going_on else 0) == done
        done = lines_of(journal) - 1
        assert done >= until - 1
    process = start(corpus, output, "--workers", "2")
    _, said = process.communicate()
    assert process.returncode == 0
    assert f"prm: {done} of 60 questions are done already: going on\n" in said
    same_as_whole(corpus, output)


@pytest.mark.slow
def test_killed_at_random_moments(corpus, tmp_path):
    """From the start of the interpreter to the last rename; builds, each killed until it gets through, until
    there were 12 kills, however the machine's speed changes meanwhile."""
    begin = time.monotonic()
    assert start(corpus, tmp_path / "timed" / "whole.jsonl", "--workers", "2").wait() == 0
    whole = time.monotonic() - begin  # seconds; kills are spread over it on fast and on slow machines
    rng, kills, moments, i = random.Random(1), 0, Counter(), 0
    while kills < 12 or moments[True] < 4:
        i += 1
        assert i <= 40, f"{kills} kills, {moments}"
        output = tmp_path / str(i) / "whole.jsonl"
        finished, latest = False, 0.8
        while not finished:
            process = start(corpus, output, "--workers", str(rng.randint(1, 3)))
            try:
                process.wait(timeout=rng.uniform(0.1, latest) * whole)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
            latest += 0.2
            assert process.returncode in (0, -signal.SIGKILL)
            finished = process.returncode == 0
            if not finished and output.parent.exists():
                moments[".journal" in " ".join(beside(output))] += 1
                if output.exists():  # killed between the rename and its last breath
                    assert output.read_bytes() == (corpus / "whole.jsonl").read_bytes()
        same_as_whole(corpus, output)


def test_killed_when_the_output_is_there_but_the_journal_not_gone(corpus, tmp_path):
    """As if between the last two system calls: the journal is whole, and so is the output."""
    output = tmp_path / "whole.jsonl"
    process = start(corpus, output, "--workers", "2")
    journal, kept = Path(f"{output}.journal"), tmp_path / "kept"
    while process.poll() is None and lines_of(journal) < 61:
        time.sleep(0.001)
        if journal.exists() and not kept.exists():
            os.link(journal, kept)  # the same file, which stays when the name goes
    process.communicate()
    assert lines_of(kept) == 61
    os.rename(kept, journal)
    Path(tmp_path / f".{output.name}.part").write_text("half a line")
    process = start(corpus, output)
    assert "60 of 60 questions are done already" in process.communicate()[1]
    same_as_whole(corpus, output)


def test_a_full_disk_loses_nothing(corpus, tmp_path):
    """Writing fails in the middle of a line, one line says so, and with room the same command goes on."""
    output = tmp_path / "whole.jsonl"
    limit = (150_000, 150_000)
    full = start(
        corpus, output, "--workers", "2",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    _, said = full.communicate()
    assert full.returncode == 2
    assert said.splitlines()[-1] == (
        f"prm: {output}.journal: cannot be written (File too large); make room and run the same command "
        "again: it goes on where it stopped"
    )
    assert beside(output) == ["whole.jsonl.journal"]
    process = start(corpus, output)
    _, said = process.communicate()
    assert process.returncode == 0 and re.search(r"prm: [1-9]\d* of 60 questions are done already", said)
    same_as_whole(corpus, output)


def test_a_disk_that_is_full_when_all_is_done(corpus, tmp_path):
    """The journal fits, the output does not: nothing is labelled again."""
    size = (corpus / "whole.jsonl").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * 1.6)}", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        output = disk / "whole.jsonl"
        process = start(corpus, output, "--workers", "2")
        _, said = process.communicate()
        assert process.returncode == 2
        assert f"prm: {output}: cannot be written (No space left on device); make room and" in said
        assert beside(output) == ["whole.jsonl.journal"]
        subprocess.run(["mount", "-o", f"remount,size={size * 4}", str(disk)], check=True)
        process = start(corpus, output)
        assert "prm: 60 of 60 questions are done already" in process.communicate()[1]
        same_as_whole(corpus, output)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def journal_of_half(corpus, output):
    """Leave the journal of a build of `corpus` that was killed halfway."""
    process = start(corpus, output)
    while lines_of(Path(f"{output}.journal")) < 30 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_other_settings_and_other_data_are_not_mixed_in(corpus, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(corpus, root)
    output = tmp_path / "out" / "whole.jsonl"
    journal_of_half(root, output)
    kept = Path(f"{output}.journal").read_bytes()

    build("spider", root, "dev", output, seed=1)
    said = capsys.readouterr().err
    assert "is of an unfinished prm build with other settings (seed): starting afresh\n" in said
    build("spider", root, "dev", tmp_path / "one" / "whole.jsonl", seed=1)
    assert output.read_bytes() == (tmp_path / "one" / "whole.jsonl").read_bytes()

    database = root / "database" / "library" / "library.sqlite"
    Path(f"{output}.journal").write_bytes(kept)
    os.utime(database, (0, 0))
    build("spider", root, "dev", output)
    assert "with other settings (databases): starting afresh\n" in capsys.readouterr().err

    entries = json.loads((root / "dev.json").read_text())
    entries[55]["question"] += "?"
    write_json(root / "dev.json", entries)
    Path(f"{output}.journal").write_bytes(kept)
    build("spider", root, "dev", output)
    assert "with other settings (databases, questions): starting afresh\n" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(corpus, tmp_path):
    output = tmp_path / "whole.jsonl"
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job does not
    process = start(corpus, output, "--workers", "2", preexec_fn=listening)
    while lines_of(Path(f"{output}.journal")) < 10 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "prm: interrupted; run the same command again to go on"
    process = start(corpus, output)
    process.communicate()
    same_as_whole(corpus, output)


def test_a_device_is_no_output(corpus, capsys):
    arguments = ["build", "--layout", "spider", "--root", str(corpus), "--split", "dev"]
    assert main([*arguments, "--output", "/dev/null"]) == 2
    assert capsys.readouterr().err == (
        "prm: /dev/null: is no regular file, and statistics and a data card are written beside it; name a "
        "file\n"
    )


# Where it all comes from


def test_every_trace_says_what_made_it(corpus):
    traces = load_traces(corpus / "whole.jsonl")
    by_variant = [trace for trace in traces if trace.label_source != "execution"]
    assert by_variant and all(re.fullmatch(r"variant:0:\d+:[0-9a-f]{8}", t.label_source) for t in by_variant)
    assert {trace.extra["made_by"] for trace in traces} == {made_by("build", 0)}
    assert re.fullmatch(
        rf"prm build {re.escape(prm.__version__)}, seed 0, sqlglot \d+\.\d+\.\d+, SQLite \d+\.\d+\.\d+",
        made_by("build", 0),
    )
    assert made_by("label").startswith(f"prm label {prm.__version__}, sqlglot ")
    summary = json.loads((corpus / "whole.jsonl.stats.json").read_text())
    assert summary["label_sources"] == {
        "execution": len(traces) - len(by_variant),
        "variant": len(by_variant),
    }
    assert summary["versions"].keys() == {"nl2sql-prm", "sqlglot", "SQLite", "Python"}


CARD = r"""---
# license: fill in; it is that of the questions and databases, which this file is made from
pretty_name: Step-labelled text-to-SQL traces \(whole\.jsonl\)
task_categories:
- token-classification
tags:
- process-reward-model
- text-to-sql
- step-labels
size_categories:
- n<1K
configs:
- config_name: default
  data_files:
  - split: whole
    path: whole\.jsonl
---

# Step-labelled text-to-SQL traces \(whole\.jsonl\)

\d{3} answers to \d\d questions over 1 databases, each cut into reasoning steps \([\d,]+ in all\), and each .+

## How the labels came to be

A question's gold SQL was cut into a chain of steps, which was run: .+

\| label_source \| traces \| meaning \|
\| --- \| --- \| --- \|
\| execution \| \d{3} \| by running the SQL on the database: .+ \|
\| variant \| \d{1,2} \| by running the SQL on the variant .+ \|

## What is in it

\|  \|  \|
\| --- \| --- \|
\| questions asked \| 60 \|
\| questions that gave no trace \| \d+ \(gold_fails: 5, gold_empty: 5.*\) \|
\| questions with a right answer only \| 0 \|
\| traces \| \d{3}, \d\d\.\d% of them wrong \|
\| traces by number of steps \| 1: \d+, 2: \d+.* \|
\| first errors by step \(from 0\) \| 0: \d+, 1: \d+.* \|
\| right answers beside the first of a question \| \d+ \|
\| wrong traces by number of errors \| 1: \d+.* \|
\| styles of the steps' text \| \w+: \d+, \w+: \d+, \w+: \d+ \|
\| kinds of errors \| (\w+: \d+(, )?)+ \|

## How it was made

```bash
prm build --layout spider --root [\w-]+ --split dev --seed 0 .*--output whole\.jsonl
```

Versions: nl2sql-prm \S+, sqlglot \S+, SQLite \S+, Python \S+\. The same command on the same data gives .+ sha256 `[0-9a-f]{64}`.+

```bash
prm inspect --databases DATABASES whole\.jsonl
```

## Limits

- A label is a fact about results on these databases and variants of them\. .+
- Wrong answers are made by changing right ones\. .+
- Gold queries without rows, .+
"""  # noqa: E501


def test_the_data_card(corpus):
    """The whole card, and its first lines as the Hub reads them."""
    card = (corpus / "whole.jsonl.md").read_text(encoding="utf-8")
    assert re.fullmatch(CARD, card), card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "whole", "path": "whole.jsonl"}]
    assert str(corpus.parent) not in card
    from prm.cli import _parser

    for line in re.findall(r"^prm (.+)$", card, re.M):
        assert _parser().parse_args(line.split()).run


def test_the_hub_reads_the_card_as_a_split(corpus, tmp_path):
    """As README.md of a folder it makes `datasets` read the traces, and not the statistics beside them."""
    import datasets

    shutil.copy(corpus / "whole.jsonl.md", tmp_path / "README.md")
    for name in ("whole.jsonl", "whole.jsonl.stats.json"):
        shutil.copy(corpus / name, tmp_path / name)
    loaded = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {
        "whole": lines_of(corpus / "whole.jsonl")
    }  # fmt: skip


def test_a_card_of_several_label_sources_and_names(corpus):
    summary = json.loads((corpus / "whole.jsonl.stats.json").read_text())
    summary |= {"label_sources": {"execution": 12_000, "variant": 7}, "traces": 12_007}
    card = build_card(summary, "some/where/part-1.of|2.jsonl")
    assert "| variant | 7 | by running the SQL on the variant that the trace names" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "part_1", "path": "part-1.of|2.jsonl"}]
    assert front["size_categories"] == ["10K<n<100K"]
