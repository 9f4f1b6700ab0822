"""`prm decode`: questions in, candidates out that the other verbs read; resumed, measured, drawn."""

from __future__ import annotations

import json
import re
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from scripted_server import asked, chat, serving
from test_search import chance

from prm.cli import main
from prm.evaluation.search_report import draw, render
from prm.traces.formats import load_traces

QUESTIONS = [
    ("How many pets are there?", "SELECT COUNT(*) FROM pet"),
    ("Name all pets.", "SELECT name FROM pet"),
    ("How old is the oldest?", "SELECT MAX(age) FROM pet"),
    ("Who is 99?", "SELECT name FROM pet WHERE age = 99"),  # no rows: nothing to compare with
]
ANSWERS = {
    "How many pets are there?": ["COUNT(*)", "COUNT(age)", "MAX(age)", "nme"],
    "Name all pets.": ["name", "age", "name", "nme"],
    "How old is the oldest?": ["MAX(age)", "MIN(age)", "MAX(age)", "SUM(age)"],
    "Who is 99?": ["name", "name", "name", "name"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "db" / "zoo").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "db" / "zoo" / "zoo.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE pet(name TEXT, age INTEGER); INSERT INTO pet VALUES ('Tim', 3), ('Tom', 5)"
        )
    connection.close()
    rows = [
        {"id": i, "question": question, "db_id": "zoo", "gold_sql": gold, "note": {"kept": True}}
        for i, (question, gold) in enumerate(QUESTIONS)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_model, tokenizer):
    folder = tmp_path_factory.mktemp("prm")
    make_model("llama", max_trace_length=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def writes(body, _=0):
    """A first step, then an answer, both drawn by the seed; without a stop, both at once."""
    prompt, prefix = asked(body)
    question = prompt.rpartition("Question: ")[2].partition("\n")[0]
    which = "all" if chance(body["seed"]) < 0.5 else "the"
    first = f"Take {which} rows.\npets AS (SELECT * FROM pet)"
    column = ANSWERS[question][int(chance(body["seed"], 1) * 4)]
    last = f"Return it.\nSELECT {column} FROM pets"
    if "stop" not in body:
        return chat(last if prefix else f"{first}\n\n{last}")
    return chat(last if prefix else first)


def decode(folder, checkpoint, url, *more, output="out.jsonl", status=0, data="questions.jsonl"):
    command = ["decode", "--data", folder / data, "--databases", folder / "db", "--model", checkpoint]
    command += ["--policy", "m", "--base-url", url, "--output", folder / output, *more]
    assert main(list(map(str, command))) == status
    return lines(folder / output) if status == 0 else None


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


BEAM = ("--method", "beam", "--n", "4", "--beam-width", "2")


def test_the_whole_way(folder, checkpoint, capsys):
    """Questions -> candidates -> labels, choices, scores by the other verbs; trees, report beside them."""
    with serving(writes) as server:
        more = ("--trees", folder / "trees.jsonl", "--report", folder / "report.html")
        made = decode(folder, checkpoint, server.url, *BEAM, *more)
    told = capsys.readouterr().err
    assert [row["id"] for row in made] == ["0", "1", "2", "3"] and made[0]["note"] == {"kept": True}
    for row in made:
        assert row["schema"].startswith("pet(name TEXT")
        assert (
            len(row["candidates"]) == len(row["scores"]) >= 1 and row["scores"] == sorted(row["scores"])[::-1]
        )
        assert row["chosen"] == 0  # the best is first
        for candidate, value in zip(row["candidates"], row["scores"], strict=True):
            assert candidate["sql"].startswith("WITH pets AS (SELECT * FROM pet)\nSELECT ")
            assert candidate["steps"][0]["sql"] == "pets AS (SELECT * FROM pet)"
            assert candidate["scores"][-1] == value and "nme" not in candidate["sql"]
    statistics = json.loads((folder / "out.jsonl.stats.json").read_text())
    assert statistics["judged"] == 3 and statistics["without_gold_result"] == 1
    chosen = [row["correct"][row["chosen"]] for row in made[:3]]
    assert statistics["accuracy"] == pytest.approx(sum(chosen) / 3)
    assert "execution accuracy" in told and "majority" in told
    assert "# Answers by guided decoding: beam" in (folder / "out.jsonl.md").read_text()
    assert statistics["prm_calls"] < sum(len(c["steps"]) for row in made for c in row["candidates"])

    assert len(load_traces(folder / "out.jsonl")) == sum(len(row["candidates"]) for row in made)
    label = ["label", "--data", folder / "out.jsonl", "--databases", folder / "db"]
    assert main([*map(str, label), "--output", str(folder / "labelled.jsonl")]) == 0
    last = {trace.sql: trace.labels[-1] for trace in load_traces(folder / "labelled.jsonl")}
    for row in made[:3]:
        for candidate, right in zip(row["candidates"], row["correct"], strict=True):
            # on variants of the database "right" may turn out to be an accident
            assert last.get(candidate["sql"], right) in (right, 0)
    rerank = ["rerank", "--data", folder / "out.jsonl", "--output", folder / "reranked.jsonl"]
    assert main([*map(str, rerank), "--model", str(checkpoint)]) == 0
    for row, again in zip(made, lines(folder / "reranked.jsonl"), strict=True):
        assert again["scores"] == pytest.approx(row["scores"], abs=1e-5)

    trees = lines(folder / "trees.jsonl")
    for row, tree in zip(made, trees, strict=True):
        nodes = {node["id"]: node for node in tree["nodes"]}
        assert nodes[tree["chosen"]]["state"] == "finished" and len(nodes) == len(tree["nodes"])
        assert [nodes[i]["score"] for i in tree["candidates"]] == row["scores"]
        assert all(node["parent"] is None or node["parent"] in nodes for node in nodes.values())
    page = (folder / "report.html").read_text()
    assert page.count('<svg class="tree"') == 4 and "How old is the oldest?" in page
    assert "<script" not in page and not re.search(r"(?:src|href)=", page)


def test_a_run_that_is_broken_off_goes_on(folder, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("prm.inference.policies.BACKOFF", 0.001)
    with serving(writes) as server:
        whole = decode(folder, checkpoint, server.url, *BEAM, output="whole.jsonl")
        n = len(server.log)

    def breaks(body, number):
        return writes(body) if number < n // 2 else (500, {}, {"error": {"message": "out of memory"}})

    one = ("--concurrency", "1")
    with serving(breaks) as server:
        decode(folder, checkpoint, server.url, *BEAM, *one, status=2)
        first = [json.dumps(body) for *_, body in server.log[: n // 2]]
    assert "run the same command again" in capsys.readouterr().err
    assert not (folder / "out.jsonl").exists() and (folder / "out.jsonl.journal").exists()
    with serving(writes) as server:
        assert decode(folder, checkpoint, server.url, *BEAM, *one) == whole
        second = [json.dumps(body) for *_, body in server.log]
        assert len(first) + len(second) == n and not set(first) & set(second)
        assert decode(folder, checkpoint, server.url, *BEAM) == whole  # and again: nothing is asked
        assert len(server.log) == len(second)
        decode(folder, checkpoint, server.url, *BEAM, "--seed", "1", status=2)
    assert "was begun with seed 0, not 1" in capsys.readouterr().err


ADDED = ["candidates", "chosen", "scores", "spent"]


def test_questions_of_traces_and_prompts_of_their_own(folder, checkpoint):
    about = {
        "question": "Name all pets.",
        "db_id": "zoo",
        "group": "g7",
        "made_by": "x",
        "schema": "pet(name)",
    }
    rows = [
        about | {"id": f"t{k}", "steps": [{"text": f"SELECT {k}", "label": 1}], "sql": "SELECT 1"}
        for k in (1, 2)
    ]
    rows.append(
        {"question": "Name all pets.", "db_id": "zoo", "policy_prompt": "Mine.\nQuestion: Name all pets."}
    )
    rows.append(
        {"question": "Name all pets.", "db_id": "zoo", "candidates": [{"sql": "SELECT 9"}], "chosen": 0}
    )
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(writes) as server:
        made = decode(folder, checkpoint, server.url, "--method", "greedy", data="traces.jsonl")
        prompts = {asked(body)[0] for *_, body in server.log}
        assert {body["temperature"] for *_, body in server.log} == {0.0}
    assert [row.get("id") for row in made] == ["g7", None, None]
    assert made[0].keys() == {
        "id",
        "question",
        "group",
        "db_id",
        "schema",
        "candidates",
        "chosen",
        "scores",
        "spent",
    }
    assert made[0]["schema"] == "pet(name)" and len(made[2]["candidates"]) == 1
    assert made[2]["candidates"][0]["sql"] != "SELECT 9"
    assert "Mine.\nQuestion: Name all pets." in prompts and len(prompts) == 3


def test_a_data_set_instead_of_a_file(folder, checkpoint):
    (folder / "t.jsonl").write_text(
        json.dumps(
            {"question": "Name all pets.", "sql": "SELECT name FROM pet", "database": "db/zoo/zoo.sqlite"}
        )
    )
    command = ["decode", "--layout", "table", "--root", folder / "t.jsonl", "--model", checkpoint, checkpoint]
    command += ["--combine", "min", "--output", folder / "out.jsonl", "--policy", "m", "--n", "2"]
    with serving(writes) as server:
        assert main([*map(str, command), "--base-url", server.url]) == 0
    (row,) = lines(folder / "out.jsonl")
    assert row["gold_sql"] == "SELECT name FROM pet" and len(row["candidates"]) <= 2  # of an ensemble of two
    assert json.loads((folder / "out.jsonl.stats.json").read_text())["judged"] == 1


def test_a_local_policy_is_deterministic(folder, checkpoint, tiny_model_dir):
    """Random weights write no SQL; with steps that end at a letter the budget leaves unfinished answers."""
    command = [
        "decode",
        "--data",
        folder / "questions.jsonl",
        "--model",
        checkpoint,
        "--policy",
        tiny_model_dir(),
    ]
    command += [
        "--method",
        "particles",
        "--n",
        "3",
        "--delimiter",
        "a",
        "--max-tokens",
        "60",
        "--max-new-tokens",
        "20",
    ]
    for name, width in (("a", 16), ("b", 16), ("c", 2)):
        more = ["--output", folder / f"{name}.jsonl", "--batch-size", width, "--policy-dtype", "float32"]
        assert main(list(map(str, [*command, *more]))) == 0
    a, b, c = (lines(folder / f"{name}.jsonl") for name in "abc")
    assert a == b and a
    texts = [[[s["text"] for s in one["steps"]] for one in row["candidates"]] for row in a]
    assert texts == [[[s["text"] for s in one["steps"]] for one in row["candidates"]] for row in c]
    assert all(one["finished"] is False for row in a for one in row["candidates"])
    assert main(list(map(str, [*command, "--seed", "1", "--output", folder / "d.jsonl"]))) == 0
    assert lines(folder / "d.jsonl") != a


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (["{"], (), "questions.jsonl:1: not JSON"),
        ([{"question": ""}], (), "questions.jsonl:1: 'question' must be a non-empty text"),
        ([{"question": "q"}], (), "has no 'db_id', which --databases needs"),
        ([{"question": "q", "db_id": "no"}], (), "there is no database 'no'"),
        ([{"question": "q", "db_id": "zoo", "schema": 7}], (), "'schema' must be a text"),
        ([], (), "holds no questions"),
        ([{"question": "q", "db_id": "zoo"}], ("--n", "3", "--method", "dvts"), "--n must be a multiple of"),
        ([{"question": "q", "db_id": "zoo"}], ("--temperature", "0"), "--temperature must be above 0"),
        ([{"question": "q", "db_id": "zoo"}], ("--root", "x"), "go without --data"),
        ([{"question": "q", "db_id": "zoo"}], ("--policy-dtype", "float32"), "is the server's business"),
        ([{"question": "q", "db_id": "zoo"}], ("--timeout", "0"), "--timeout must be more than 0"),
        ([{"question": "q", "db_id": "zoo"}], ("--trees", "/"), "is a folder"),
    ],
)
def test_bad_input_is_one_line(folder, checkpoint, capsys, rows, more, message):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "questions.jsonl").write_text(text)
    decode(folder, checkpoint, "http://127.0.0.1:9/v1", *more, status=2)
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1] and told[-1].startswith("prm: ")
    assert not (folder / "out.jsonl").exists()


def test_an_answer_that_is_none(folder, checkpoint, capsys):
    def knows_nothing(body, _=0):
        return chat("" if asked(body)[1] else "I do not know.")

    with serving(knows_nothing) as server:
        made = decode(folder, checkpoint, server.url, *BEAM, output="a.jsonl")
        # Of its first step nothing comes, which is tried twice; each time it is also asked without the stop.
        assert len(server.log) == 4 * 4 * (1 + 2 * 2)
        assert [one["finished"] for row in made for one in row["candidates"]] == [False] * 4
        assert "0 of 4 questions answered" in capsys.readouterr().err
        decode(folder, checkpoint, server.url, "--n", "2", status=2)
    assert "no question has an answer (it ends without a final SELECT)" in capsys.readouterr().err
    with serving(lambda body, _: writes(body) if "Name" in asked(body)[0] else knows_nothing(body)) as server:
        made = decode(folder, checkpoint, server.url, *BEAM, output="b.jsonl")
    assert [row["candidates"][row["chosen"]].get("finished", True) for row in made] == [
        False,
        True,
        False,
        False,
    ]
    assert "without an answer 3: it ends without a final SELECT" in capsys.readouterr().err
    assert json.loads((folder / "b.jsonl.stats.json").read_text())["judged"] == 3  # and count as wrong


def test_accuracies_are_those_of_the_first_candidates(folder):
    """Naive, majority and weighted over the first 1, 2, 4 candidates, written out."""
    from prm.decode import Asked, _Databases, accuracies
    from prm.sql.database import DatabasePool

    database = folder / "db" / "zoo" / "zoo.sqlite"
    asked = [Asked({"question": q, "gold_sql": gold, "db_id": "zoo"}, database) for q, gold in QUESTIONS[:2]]
    sqls = [
        ["SELECT 7", "SELECT 2", "SELECT 2", "SELECT x"],
        ["SELECT name FROM pet", "SELECT 1", None, "SELECT 1"],
    ]
    scores = [[0.6, 0.3, 0.4, 0.99], [0.2, 0.1, 0.9, 0.05]]
    rows = [
        {"candidates": [{"sql": sql} if sql else {} for sql in each], "scores": values, "chosen": chosen}
        for each, values, chosen in zip(sqls, scores, [0, 0], strict=True)
    ]
    with DatabasePool(1) as pool:
        found = accuracies(asked, rows, _Databases(pool, 5.0), 4)
    assert [row["correct"] for row in rows] == [[False, True, True, False], [True, False, False, False]]
    assert found["accuracy"] == 0.5
    assert found["accuracy_at"] == {
        "naive": {
            "1": 0.5,
            "2": 0.5,
            "4": 0.5,
        },  # 0.6, and in the end 0.99, beat 0.4
        "majority": {"1": 0.5, "2": 0.5, "4": 0.5},  # SELECT 2 twice; SELECT 1 twice
        "weighted": {"1": 0.5, "2": 0.5, "4": 1.0},  # 0.7 against 0.6; 0.2 against 0.15
        "any": {"1": 0.5, "2": 1.0, "4": 1.0},
    }


HOSTILE = '<script>alert("1")</script>\' & </svg>'


def test_the_report_escapes_what_comes_from_the_data(folder):
    nodes = [
        {"id": 0, "parent": None, "text": None, "score": None, "state": "open", "error": None, "tokens": 0},
        {
            "id": 1,
            "parent": 0,
            "text": HOSTILE,
            "score": 0.7,
            "state": "finished",
            "error": None,
            "tokens": 3,
        },
        {"id": 2, "parent": 0, "text": "x", "score": None, "state": "dropped", "error": HOSTILE, "tokens": 3},
        {"id": 3, "parent": 0, "text": "y", "score": 0.2, "state": "open", "error": None, "tokens": 3},
        {
            "id": 4,
            "parent": 3,
            "text": "z",
            "score": 0.1,
            "state": "open",
            "error": None,
            "tokens": 3,
            "lookahead": True,
        },
    ]
    tree = {"id": "1", "question": HOSTILE, "failed": None, "nodes": nodes, "candidates": [1], "chosen": 1}
    svg = ET.fromstring(str(draw(tree)))
    marks = [(mark.get("class"), mark.get("style")) for mark in svg if mark.tag in ("circle", "g")]
    assert marks == [
        ("step finished chosen", "--p:70%"),
        ("dropped", None),
        ("step", "--p:20%"),
        ("step", "--p:10%"),
    ]
    assert [path.get("class") for path in svg if path.tag == "path"] == ["way", "edge", "edge", "ahead"]
    assert svg.find("circle/title").text == HOSTILE
    plan = dict.fromkeys(
        ("n", "beam_width", "lookahead", "aggregate", "max_tokens", "max_prm_calls", "on_error", "seed")
    )
    statistics = {
        "method": "beam", "policy": HOSTILE, "prm": HOSTILE, "plan": plan, "questions": 1, "answered": 1,
        "failed": {HOSTILE: 1}, "tokens": 9, "requests": 3, "prm_calls": 2, "tokens_a_question": 9.0,
        "prm_calls_a_question": 2.0,
    }  # fmt: skip
    page = render(statistics, [tree])
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6


def test_a_deep_tree_is_drawn(folder):
    """Ten thousand steps behind each other: no recursion, and a note on what is left out."""
    node = {"text": "s", "score": 0.5, "state": "open", "error": None, "tokens": 1}
    nodes = [node | {"id": i, "parent": i - 1 if i else None} for i in range(10_000)]
    drawing = str(draw({"nodes": nodes, "candidates": [], "chosen": None}))
    assert drawing.count("<circle") == 399 and "9600 more steps are not drawn" in drawing
