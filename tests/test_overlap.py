"""Questions in two splits: what counts as the same, what is said of it, and that training refuses it."""

from __future__ import annotations

import json
import time

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.traces.formats import from_rows, write_traces
from prm.traces.overlap import overlaps, refuse_overlap
from prm.traces.trace import Step, Trace


def trace(question, db_id="zoo", **more):
    return Trace(question, [Step("s", 1)], db_id=db_id, **more)


LONG = "Which keepers of big cats were born after 1960 in Kenya?"


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (trace("How many lions?"), trace("How many lions?"), "same question"),
        (trace("How many lions?"), trace("  how many\nLIONS "), "same question"),
        (trace("“How many” lions—?"), trace("How many lions"), "same question"),
        (trace("How many lions?"), trace("How many lions?", db_id="circus"), None),
        (trace("How many lions?"), trace("How many tigers?"), None),
        (trace("Lions born after 1990"), trace("Lions born after 2,005.5"), "same but for numbers"),
        (trace("Lions born after 1990"), trace("Lions born after May"), None),
        (
            trace("1990年以后出生的狮子有几只？"),
            trace("2005年以后出生的狮子有几只？"),
            "same but for numbers",
        ),
        (trace(LONG), trace(LONG.replace("Kenya", "Ghana")), "one word differs"),
        (trace(LONG), trace(LONG.replace("big ", "")), "one word differs"),
        (trace(LONG), trace("Tell: " + LONG), "one word differs"),
        (trace(LONG), trace(LONG.replace("big ", "").replace("Kenya", "Ghana")), None),
        (trace(LONG), trace(LONG.replace("1960", "1970").replace("Kenya", "Ghana")), "one word differs"),
        (trace(LONG), trace(" ".join(reversed(LONG.split()))), None),
        (
            trace("名字以李开头的饲养员有几个人？"),
            trace("名字以王开头的饲养员有几个人？"),
            "one word differs",
        ),
        (
            trace("How many lions?", gold_sql="SELECT count(*) FROM lion"),
            trace("Count the lions.", gold_sql="select COUNT(*)  from lion;"),
            "same gold SQL",
        ),
        (trace("How many lions?", group="g"), trace("Count the lions.", group="g"), "same group"),
        (trace("How many lions?", group="g"), trace("Count lions.", db_id="circus", group="g"), None),
        # Without a database, what the model reads, word for word; numbers are all that differs in sums.
        (trace("What is 3 + 4?", db_id=None), trace("What is 3 + 5?", db_id=None), None),
        (trace("What is 3 + 4?", db_id=None), trace("what is 3 + 4", db_id=None), "same question"),
        (trace(LONG, db_id=None), trace(LONG.replace("Kenya", "Ghana"), db_id=None), None),
        (trace("Lions?", db_id=None, schema="a(b)"), trace("Lions?", db_id=None, schema="c(d)"), None),
        (trace("Lions?", db_id=None, group="7"), trace("Tigers?", db_id=None, group="7"), None),
    ],
)
def test_what_counts_as_the_same_question(one, other, kind):
    for first, second in ((one, other), (other, one)):
        (found,) = overlaps({"train": [first, first], "dev": [second, second]})
        assert dict(found.kinds) == ({kind: 1} if kind else {})
        assert (found.first, found.second, found.questions) == ("train", "dev", 1)


def test_trl_rows_are_compared_by_their_prompt():
    rows = [{"prompt": f"Q{i}", "completions": ["a"], "labels": [True]} for i in (1, 2, 2, 3)]
    (found,) = overlaps({"a": from_rows(rows[:2]), "b": from_rows(rows[2:])})
    assert (dict(found.kinds), found.questions, found.databases) == ({"same question": 1}, 2, 0)


def test_every_pair_of_splits_is_compared_and_questions_are_counted_once():
    lions, tigers, bears = (trace(f"How many {name}?") for name in ("lions", "tigers", "bears"))
    found = overlaps({"a": [lions, tigers], "b": [tigers, bears, bears], "c": [bears, lions, tigers]})
    assert [(o.first, o.second, o.kinds.total(), o.questions) for o in found] == [
        ("a", "b", 1, 2),
        ("a", "c", 2, 3),
        ("b", "c", 2, 3),
    ]
    assert all(o.databases == 1 for o in found)


def test_a_shared_database_is_no_overlap_but_named():
    (found,) = overlaps({"train": [trace("How many lions?")], "dev": [trace("Who feeds the bears?")]})
    assert (dict(found.kinds), found.example, found.databases) == ({}, None, 1)
    refuse_overlap({"train": [trace("How many lions?")], "dev": [trace("Who feeds the bears?")], "test": []})


def test_a_hundred_thousand_traces_take_seconds():
    """Five traces a question; every thousandth dev question is a train question but for one word."""
    words = [f"{a}{b}" for a in "bcdfghklmn" for b in ("a", "e", "i", "o", "u", "an", "en", "in")]

    def text(i):
        return (
            " ".join(words[i // 80**k % 80] for k in range(3))
            + " "
            + " ".join(words[i * k % 80] for k in range(9))
        )

    train = [trace(text(i), db_id=f"db{i % 50}") for i in range(16_000) for _ in range(5)]
    dev = [trace(text(i), db_id=f"db{i % 50}x") for i in range(16_000, 20_000) for _ in range(5)]
    for i in range(0, 4_000, 1_000):
        dev[5 * i] = trace("surely " + text(i), db_id=f"db{i % 50}")
    start = time.perf_counter()
    (found,) = overlaps({"train": train, "dev": dev})
    assert time.perf_counter() - start < 30
    assert dict(found.kinds) == {"one word differs": 4}


def test_inspect_says_what_two_files_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    write_traces([trace("How many lions?"), trace(LONG)], tmp_path / "train.jsonl")
    write_traces([trace("How many lions ?"), trace("Who?"), trace("Why?")], tmp_path / "dev.jsonl")
    train, dev = str(tmp_path / "train.jsonl"), str(tmp_path / "dev.jsonl")
    assert main(["inspect", train, dev, "--json", str(tmp_path / "s.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"overlap 1 of 3 questions of {dev} are in {train}: same question 1 (100.0%); such as "
        "'How many lions ?' (same question, database zoo); 1 databases in both"
    ) in shown
    (written,) = json.loads((tmp_path / "s.json").read_text())["overlaps"]
    assert written == {
        "first": train,
        "second": dev,
        "kinds": {"same question": 1},
        "questions": 3,
        "example": "'How many lions ?' (same question, database zoo)",
        "databases": 1,
    }
    assert main(["inspect", train]) == 0
    assert "overlap" not in capsys.readouterr().out


def test_the_refusal_names_an_example_and_the_mend():
    changed = LONG.replace("Kenya", "Ghana")
    splits = {"train_data": [trace(LONG)], "eval_data": [trace("Who?")], "test_data": [trace(changed)]}
    with pytest.raises(InputError) as refused:
        refuse_overlap(splits)
    assert str(refused.value) == (
        f"1 of 1 questions of test_data are in train_data, too, such as '{changed}' and '{LONG}' (one word "
        "differs, database zoo): what was trained or chosen on cannot measure; take them out of one of the "
        "two (prm inspect FILE FILE counts them), or set allow_overlap: true"
    )


@pytest.mark.parametrize("where", ["eval_data", "test_data"])
def test_training_refuses_what_it_would_measure_itself_on(where, tmp_path, capsys):
    write_traces([trace("How many lions?"), trace("Who feeds the bears?")], tmp_path / "train.jsonl")
    write_traces([trace("How many lions?")], tmp_path / "other.jsonl")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {tmp_path}/no-model\ntrain_data: {tmp_path}/train.jsonl\n"
        f"{where}: {tmp_path}/other.jsonl\noutput_dir: {tmp_path}/run\nuse_cpu: true\n"
    )
    assert main(["train", str(recipe)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"prm: 1 of 1 questions of {where} are in train_data, too, such as 'How many lions?'"
    )
    assert main(["train", str(recipe), "--allow_overlap", "true"]) == 2
    assert "no-model" in capsys.readouterr().err.splitlines()[-1]  # it goes on to load the model
