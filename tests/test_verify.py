"""`prm inspect --databases`: a built file passes, and every single thing that is spoilt in it is found."""

from __future__ import annotations

import copy
import json
import re
from functools import partial

import pytest
from test_build import QUESTIONS, make_database, write_json

from prm.cli import main
from prm.errors import InputError
from prm.labeling.build import build
from prm.labeling.verify import CHECKS, check_traces, verify
from prm.sql.database import open_database
from prm.sql.decompose import assemble
from prm.sql.variants import Suite
from prm.traces.formats import located_traces
from prm.traces.questions import find_database, locate_database


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A Spider folder with one database, and `traces.jsonl` built from it."""
    root = tmp_path_factory.mktemp("spider")
    make_database(root / "database" / "library" / "library.sqlite")
    entries = [{"db_id": "library", "question": q, "query": sql} for q, sql in QUESTIONS]
    write_json(root / "dev.json", entries)
    build("spider", root, "dev", root / "traces.jsonl", wrong_per_question=6)
    return root


@pytest.fixture
def rows(root):
    return [json.loads(line) for line in (root / "traces.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def checked(root, tmp_path):
    """`checked(rows)`: the violations as (line, check, message), and the findings."""

    def check(rows, workers=1):
        file = tmp_path / "t.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        findings = check_traces(located_traces([str(file)]), partial(locate_database, root), workers=workers)
        assert {v.file for v in findings.violations} <= {str(file)}
        return [(v.line, v.check, v.message) for v in findings.violations], findings

    return check


def first(rows, wanted):
    """Index of the first row for which `wanted(labels, row)` holds."""
    return next(i for i, row in enumerate(rows) if wanted([s["label"] for s in row["steps"]], row))


def labels_of(row):
    return [step["label"] for step in row["steps"]]


def late(labels, row):
    """A wrong trace whose error is not at its first step, and has steps behind it or not."""
    return 0 in labels and labels[0] == 1


def right_of(rows, i):
    """The right trace that row `i` was made from."""
    parent = rows[i].get("parent")
    same = (row for row in rows if row["group"] == rows[i]["group"])
    return next(row for row in same if row["id"] == parent or (parent is None and row["steps"][-1]["label"]))


def test_what_is_built_holds(root, rows, checked):
    violations, findings = checked(rows)
    wrong = sum(row["steps"][-1]["label"] == 0 for row in rows)
    assert violations == [] and len(rows) > 40
    assert findings.checked == {
        "labels": len(rows),
        "whole": len(rows),
        "once": len(rows),
        "parent": wrong,
        "assembly": len(rows),
        "text": len(rows),
        "answer": len(rows),
    }
    assert not any(findings.unchecked.values())


def rises(rows):
    i = first(rows, lambda labels, row: labels[:-1].count(0) >= 1)
    rows[i]["steps"][-1]["label"] = 1
    return i, ["labels"]


def changes_a_step_before_the_error(rows):
    i = first(rows, late)
    rows[i]["steps"][0]["text"] += " Indeed."
    return i, ["parent", "text"]


def changes_the_sql_before_the_error(rows):
    i = first(rows, late)
    rows[i]["steps"][0]["sql"] = "other" + rows[i]["steps"][0]["sql"]
    return i, ["assembly", "parent", "text"]


def does_not_differ_in_text_at_the_error(rows):
    i = first(rows, late)
    at = [step["label"] for step in rows[i]["steps"]].index(0)
    rows[i]["steps"][at]["text"] = right_of(rows, i)["steps"][at]["text"]
    return i, ["parent", "text"]


def does_not_differ_in_sql_at_the_error(rows):
    i = first(rows, lambda labels, row: labels.index(0) == len(labels) - 1 if 0 in labels else False)
    rows[i]["steps"][-1]["sql"] = right_of(rows, i)["steps"][-1]["sql"]
    rows[i]["sql"] = right_of(rows, i)["sql"]
    return i, ["answer", "parent", "text"]


def says_wrong_too_late(rows):
    """The error is moved to the next step."""
    i = first(rows, lambda labels, row: labels.count(0) > 1)
    at = [step["label"] for step in rows[i]["steps"]].index(0)
    rows[i]["steps"][at]["label"] = 1
    rows[i]["steps"][at + 1]["error"] = rows[i]["steps"][at].pop("error")
    return i, ["parent"]


def asks_something_else(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["question"] += " Please."
    return i, ["parent"]


def sql_is_not_the_steps(rows):
    i = first(rows, lambda labels, row: 0 in labels and row["sql"].count("\n") == 0)
    rows[i]["sql"] = "SELECT 17, 4, 17"
    return i, ["assembly"]


def no_longer_a_parent(rows, i):
    """Leave out what was made from row `i`, which would be named, too."""
    rows[:] = [row for row in rows if row.get("parent") != rows[i]["id"]]
    return []


def right_is_called_wrong(rows):
    i = first(rows, lambda labels, row: 0 not in labels)
    rows[i]["steps"][-1]["label"] = 0
    return i, ["answer", *no_longer_a_parent(rows, i)]


def wrong_is_called_right(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    for step in rows[i]["steps"]:
        step["label"] = 1
    return i, ["answer"]


def right_does_not_run(rows):
    i = first(rows, lambda labels, row: 0 not in labels and len(labels) == 1)
    rows[i]["sql"] = rows[i]["steps"][0]["sql"] = "SELECT nothing FROM nowhere"
    return i, ["answer", "text", *no_longer_a_parent(rows, i)]


def gold_does_not_run(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["gold_sql"] = "SELECT nothing FROM nowhere"
    return i, ["answer", "parent"]


def gold_is_another(rows):
    """Which the wrong answer differs from as well."""
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["gold_sql"] = "SELECT 'another', 1, 2, 3, 4"
    return i, ["parent"]


def stands_there_twice(rows):
    rows.append(copy.deepcopy(rows[2]))
    return len(rows) - 1, ["once"]


def is_of_another_group(rows):
    i = first(rows, lambda labels, row: 0 in labels and row.get("parent"))
    rows[i]["group"] = "another"
    return i, ["parent", "whole"]


def right_one_is_of_another_group(rows):
    i = first(rows, lambda labels, row: 0 not in labels and row["id"].endswith("-0"))
    no_longer_a_parent(rows, i)
    rows[i]["group"] = "another"
    return i, ["whole"]


def right_trace_is_gone(rows):
    """With all that was made from it but one."""
    i = first(rows, lambda labels, row: 0 in labels)
    orphan, parent = rows[i], rows[i]["parent"]
    rows[:] = [r for r in rows if r is orphan or parent not in (r["id"], r.get("parent"))]
    return rows.index(orphan), ["parent"]


def id_stands_there_twice(rows):
    """With another text, so it is no copy."""
    i = first(rows, lambda labels, row: 0 in labels)
    j = next(j for j in range(i + 1, len(rows)) if rows[j].get("parent") == rows[i]["parent"])
    rows[j]["id"] = rows[i]["id"]
    return j, ["once"]


def sql_of_two_steps_is_swapped(rows):
    """Which are independent: the whole runs as before, but each says what the other does."""
    i = first(rows, lambda labels, row: len(labels) > 2 and 0 not in labels)
    no_longer_a_parent(rows, i)
    one, two = rows[i]["steps"][:2]
    one["sql"], two["sql"] = two["sql"], one["sql"]
    rows[i]["sql"] = assemble([step["sql"] for step in rows[i]["steps"]])
    return i, ["text"]


def sql_is_that_of_the_next(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["sql"] = next(row["sql"] for row in rows if row["sql"] != rows[i]["sql"] and 0 in labels_of(row))
    return i, ["assembly"]


def a_sentence_says_something_else(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    at = labels_of(rows[i]).index(0)
    rows[i]["steps"][at]["text"] = "Nothing of the kind.\n" + rows[i]["steps"][at]["sql"]
    return i, ["text"]


def has_a_step_without_label(rows):
    i = first(rows, lambda labels, row: labels[0] == 1 and 0 in labels)
    rows[i]["steps"][0]["label"] = None
    return i, ["whole"]


def source_is_another(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["label_source"] = "human"
    return i, ["whole"]


def variant_is_another(rows):
    i = first(rows, lambda labels, row: 0 in labels)
    rows[i]["label_source"] = "variant:0:3:0badcafe"
    return i, ["answer"]


def order_is_another(rows):
    i = first(rows, lambda labels, row: 0 not in labels and "ORDER BY" in row["gold_sql"])
    no_longer_a_parent(rows, i)
    step = rows[i]["steps"][-1]
    turned = re.sub(r"(ORDER BY [\w.]+)( DESC)?", lambda m: m[1] + ("" if m[2] else " DESC"), step["sql"])
    assert turned != step["sql"]
    step["sql"] = turned
    rows[i]["sql"] = assemble([step["sql"] for step in rows[i]["steps"]])
    return i, ["answer", "text"]


def differs_in_white_space_of_a_literal(rows):
    i = first(rows, lambda labels, row: 0 in labels and len(labels) == 1)
    rows[i]["steps"][0]["sql"], rows[i]["sql"] = "SELECT 'a  b', 1, 2, 3", "SELECT 'a b', 1, 2, 3"
    return i, ["assembly", "text"]


def is_no_trace(rows):
    rows[3] = {"question": "q", "steps": []}
    return 3, ["malformed"]


@pytest.mark.parametrize(
    "spoil",
    [
        rises, changes_a_step_before_the_error, changes_the_sql_before_the_error,
        does_not_differ_in_text_at_the_error, does_not_differ_in_sql_at_the_error, says_wrong_too_late,
        asks_something_else, sql_is_not_the_steps, right_is_called_wrong, wrong_is_called_right,
        right_does_not_run, gold_does_not_run, gold_is_another, stands_there_twice, is_of_another_group,
        right_one_is_of_another_group, right_trace_is_gone, id_stands_there_twice,
        sql_of_two_steps_is_swapped, sql_is_that_of_the_next, a_sentence_says_something_else,
        has_a_step_without_label, source_is_another, variant_is_another, order_is_another,
        differs_in_white_space_of_a_literal, is_no_trace,
    ],
)  # fmt: skip
def test_what_is_spoilt_is_found_and_nothing_else(rows, checked, spoil):
    i, checks = spoil(rows)
    violations, _ = checked(rows)
    assert [(line, check) for line, check, _ in violations if line == i + 1] == [(i + 1, c) for c in checks]
    assert {line for line, _, _ in violations} == {i + 1}


AUTHORS_BY_BIRTH = "SELECT name FROM author WHERE born > 1900 ORDER BY born"


def answer(sql, label, *, gold=AUTHORS_BY_BIRTH, error=None, **more):
    step = {"text": "t", "label": label, "sql": sql} | ({"error": error} if error else {})
    return {"question": "q", "steps": [step], "db_id": "library", "sql": sql, "gold_sql": gold, **more}


@pytest.mark.parametrize(
    ("row", "violated"),
    [
        (answer(AUTHORS_BY_BIRTH, 1), None),
        (answer("SELECT name FROM author ORDER BY born", 1), None),
        # Two authors were born in 1962: a right answer shows gold's own rows, a wrong one must differ in
        # more than the order of ties, unless its error is one of order.
        (answer("SELECT name FROM author ORDER BY born, name DESC", 1), "labelled right"),
        (answer("SELECT name FROM author ORDER BY born, name DESC", 0, error="column"), "labelled wrong"),
        (answer("SELECT name FROM author ORDER BY born, name DESC", 0, error="order_key"), None),
        (answer("SELECT name FROM author ORDER BY born DESC", 0, error="order_direction"), None),
        (answer("SELECT name FROM author ORDER BY born DESC", 0), None),
        (answer("SELECT name FROM author", 1, gold="SELECT name FROM author ORDER BY 1 DESC"), "right"),
        (answer("SELECT name FROM author ORDER BY born", 1, gold="SELECT name FROM author"), None),
        (answer("SELECT name, born FROM author", 1, gold="SELECT born, name FROM author"), None),
        (answer("SELECT name FROM writer", 0), None),
        (answer("SELECT name FROM author; ", 1, gold="SELECT name FROM author"), None),
    ],
)
def test_same_rows_and_labels(checked, row, violated):
    violations, findings = checked([row])
    assert [check for _, check, _ in violations] == (["answer"] if violated else [])
    assert violated is None or violated in violations[0][2]
    assert findings.checked["answer"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gold_sql": None}, "no sql or no gold_sql"),
        ({"sql": None}, "no sql or no gold_sql"),
        ({"label_scheme": "step"}, "labels that judge their step alone"),
        ({"label_source": "human"}, "labels not by execution (human)"),
        ({"db_id": "zoo"}, "no such database"),
        ({"db_id": "../database/library"}, "no such database"),
        ({"db_id": None}, "no such database"),
        ({"steps": [{"text": "t", "label": None}]}, "a last label that is neither 0 nor 1"),
        ({"steps": [{"text": "t", "label": 0.4}]}, "a last label that is neither 0 nor 1"),
    ],
)
def test_what_cannot_be_checked_is_counted(checked, change, reason):
    row = {key: value for key, value in (answer("SELECT 1", 1) | change).items() if value is not None}
    violations, findings = checked([row])
    assert violations == []
    assert findings.unchecked["answer"] == {reason: 1} and findings.checked["answer"] == 0


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("end", "words"),
    [("SELECT MAX(i) FROM n", "outlives --timeout"), ("SELECT i FROM n", "gives too many rows")],
)
def test_what_ends_at_a_limit_is_neither_right_nor_wrong(label, end, words, tmp_path, root):
    file = tmp_path / "t.jsonl"
    rows = [answer(f"{ENDLESS} {end}", label), answer(AUTHORS_BY_BIRTH, 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = verify([str(file)], root, timeout=0.5)["checks"]["answer"]
    assert (told["checked"], told["violations"]) == (1, 0)
    assert told["not_checkable"] == {f"an answer labelled {'right' if label else 'wrong'} {words}": 1}


def test_a_wrong_trace_that_hides_where_it_comes_from_is_counted(rows, checked):
    i = first(rows, lambda labels, row: 0 in labels and "parent" in row)
    for key in ("parent", "made_by"):
        rows[i].pop(key)
    for step in rows[i]["steps"]:
        step.pop("error", None)
    violations, findings = checked(rows)
    assert violations == []
    assert findings.unchecked["parent"] == {"it does not tell what it was made from": 1}


def test_real_answers_need_no_right_trace_that_they_were_made_from(checked):
    right = answer("SELECT name FROM author", 1, gold="SELECT name FROM author", group="g")
    wrong = answer("SELECT born FROM author", 0, gold="SELECT name FROM author", group="g")
    wrong["steps"].insert(0, {"text": "b", "label": 1})
    assert checked([right, wrong])[0] == []
    built = checked([right, wrong | {"made_by": "prm build 0.1.0"}])[0]
    (found,) = [violation for violation in built if violation[1] == "parent"]
    assert found[0] == 2 and "step 0 differs from the right trace in line 1" in found[2]


def test_the_parent_decides_among_several_right_traces(rows, checked):
    i = first(rows, late)
    parent = right_of(rows, i)
    other = copy.deepcopy(parent) | {"id": "other"}
    other["steps"][0]["text"] += " In other words."
    rows = [row for row in rows if row["group"] != parent["group"]] + [other, parent, rows[i]]
    for row in rows[-3:]:
        row["made_by"] = "hand"
    rows[-1].pop("parent", None)
    assert checked(rows)[0] == []
    assert checked([*rows[:-1], rows[-1] | {"parent": parent["id"]}])[0] == []
    (found,) = checked([*rows[:-1], rows[-1] | {"parent": "other"}])[0]
    assert found[:2] == (len(rows), "parent")
    _, findings = checked([*rows[:-1], rows[-1] | {"parent": "lost"}])
    assert findings.unchecked["parent"] == {"its right trace is not in the files": 1}


CONSENSUS = {"label_source": "consensus", "made_by": "prm consensus 0.1.0"}


@pytest.mark.parametrize(
    ("sources", "makers", "is_checked"),
    [
        (["judge", "execution"], None, True),
        (["judge", "monte-carlo"], ["prm judge 0.1.0", "prm rollout 0.1.0, seed 0"], True),
        (["judge", "monte-carlo"], None, False),  # of somebody who need not have run the answer
        (["judge", "judge"], ["prm judge 0.1.0", "prm judge 0.1.0"], False),
    ],
)
def test_last_labels_on_which_sources_agree(checked, sources, makers, is_checked):
    """One of them comes from running the answer, and can be asked again."""
    agreed = CONSENSUS | {"consensus": sources} | ({"consensus_made_by": makers} if makers else {})
    gold = "SELECT name FROM author"
    right, wrong = answer(gold, 1, gold=gold), answer("SELECT born FROM author", 0, gold=gold)
    violations, findings = checked([right | agreed, wrong | agreed])
    assert violations == [] and findings.checked["answer"] == (2 if is_checked else 0)
    right["steps"][0]["label"], wrong["steps"][0]["label"] = 0, 1
    violations, _ = checked([right | agreed, wrong | agreed])
    assert [(line, check) for line, check, _ in violations] == ([(1, "answer"), (2, "answer")] * is_checked)


def test_what_sources_agree_on_is_asked_on_the_variant_that_one_of_them_names(root, checked):
    gold, sql = "SELECT name FROM author WHERE born > 1950", "SELECT name FROM author WHERE born > 1951"
    path = root / "database" / "library" / "library.sqlite"
    with open_database(path) as database, Suite(database, gold, folder=root) as suite:
        suite.distil([sql])
        named = suite.verdict(sql).on
    agreed = CONSENSUS | {"consensus": ["judge", f"monte-carlo:{named}"]}
    assert checked([answer(sql, 0, gold=gold) | agreed])[0] == []
    (found,) = checked([answer(sql, 1, gold=gold) | agreed])[0]
    assert f"is not gold's on {named}" in found[2]


def test_missing_labels_leave_open_where_a_wrong_trace_leaves_the_right_one(rows, checked):
    """As `prm consensus --keep steps` writes them: the error is in one of the steps up to the first 0."""
    i = first(rows, lambda labels, row: labels.count(0) > 1)
    family = [copy.deepcopy(right_of(rows, i)), rows[i]]
    for row in family:
        row |= CONSENSUS | {"consensus": ["judge", "execution"]}
    family[0]["steps"][0]["label"] = None  # and the right one is right by its last label
    at = labels_of(family[1]).index(0)
    family[1]["steps"][at]["label"] = None
    violations, findings = checked(family)
    assert violations == [] and findings.checked["parent"] == 1
    family[1]["steps"] = family[0]["steps"][:at] + family[1]["steps"][at:]
    for k in (at, at + 1):
        if k < len(family[0]["steps"]):
            family[1]["steps"][k] = family[0]["steps"][k] | {"label": None if k == at else 0}
    assert "parent" in [check for _, check, _ in checked(family)[0]]


def test_white_space_is_no_difference(rows, checked):
    for row in rows:
        row["sql"] = "  " + row["sql"].replace("\n", " \n\t") + " ;\n"
    assert checked(rows)[0] == []


def test_order_of_lines_and_workers_change_nothing(rows, checked):
    for spoil in (changes_a_step_before_the_error, wrong_is_called_right, is_no_trace):
        spoil(rows)
    one, two = checked(rows), checked(rows, workers=2)
    assert one[0] == two[0] and len(one[0]) == 4
    assert one[1].to_dict() == two[1].to_dict()
    backwards, _ = checked(rows[::-1])
    assert sorted((len(rows) + 1 - line, check) for line, check, _ in backwards) == [
        (line, check) for line, check, _ in one[0]
    ]


@pytest.mark.parametrize(
    "place",
    [
        "database/zoo/zoo.sqlite",
        "test_database/zoo/zoo.sqlite",
        "zoo/zoo.sqlite",
        "dev_databases/zoo/zoo.sqlite",
        "dev/dev_databases/zoo/zoo.sqlite",
        "zoo.db",
    ],
)
def test_databases_are_found_where_data_sets_keep_them(tmp_path, place):
    make_database(tmp_path / place)
    assert locate_database(tmp_path, "zoo") == find_database(tmp_path, "zoo") == tmp_path / place
    assert locate_database(tmp_path, "zebra") is None
    with pytest.raises(InputError, match=r"there is no database 'zebra' in .*; --databases is"):
        find_database(tmp_path, "zebra")


def test_no_name_leads_out_of_the_folder(tmp_path):
    make_database(tmp_path / "secret.sqlite")
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("../secret", "sub/../../secret", f"{tmp_path}/secret", "..", "", None, "a\0b"):
        assert locate_database(tmp_path / "data", name) is None


def test_the_command_says_where_and_ends_with_2(root, rows, tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    i, _ = wrong_is_called_right(rows)
    rows[i + 1] = {"question": "q", "steps": []}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = tmp_path / "report.json"
    assert main(["inspect", "--databases", str(root), str(file), "--json", str(report)]) == 2
    out, err = capsys.readouterr()
    assert f"{file}:{i + 2}: malformed: 'steps' must be a non-empty list" in out
    assert f"{file}:{i + 1}: answer: labelled right, but " in out
    assert err.splitlines()[-1] == (
        f"prm: {file}:{i + 1}: answer violated first here; in all 2 violations "
        "(1 answer, 1 malformed), listed above; build the file anew, or take these traces out"
    )
    told = json.loads(report.read_text())
    assert (told["malformed"], told["checks"]["answer"]["violations"], len(told["violations"])) == (1, 1, 2)
    assert told["traces"] == len(rows) - 1

    assert main(["inspect", "--databases", str(root / "database"), str(root / "traces.jsonl")]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[-8:]]
    assert shown[0] == ["check", "traces", "violations", "not", "checkable"]
    assert [line[0] for line in shown[1:]] == list(CHECKS)
    assert all(line[2:] == ["0", "0"] for line in shown[1:])


def test_what_cannot_be_checked_at_all_is_refused(root, tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": "q", "steps": [{"text": "t", "label": 1}]}))
    with pytest.raises(InputError, match=r"no answer can be checked \(1 x no sql or no gold_sql\)"):
        verify([str(tmp_path / "t.jsonl")], root)
    with pytest.raises(InputError, match="no such folder; --databases is a data set's folder"):
        verify([str(tmp_path / "t.jsonl")], tmp_path / "nowhere")


def test_a_variant_is_made_again_and_asked(root, checked):
    """Equal on the database, different on the variant that the trace names."""
    gold, sql = "SELECT name FROM author WHERE born > 1950", "SELECT name FROM author WHERE born > 1951"
    path = root / "database" / "library" / "library.sqlite"
    with open_database(path) as database, Suite(database, gold, folder=root) as suite:
        suite.distil([sql])
        verdict = suite.verdict(sql)
    assert verdict.equal is False and verdict.on.startswith("variant:")
    named = {"label_source": verdict.on}
    assert checked([answer(sql, 0, gold=gold) | named, answer(gold, 1, gold=gold) | named])[0] == []
    (found,) = checked([answer(sql, 1, gold=gold) | named])[0]
    assert found[1] == "answer" and f"is not gold's on {verdict.on}" in found[2]
    (found,) = checked([answer(sql, 0, gold=gold)])[0]
    assert "labelled wrong, but its result is gold's on the database" in found[2]
    (found,) = checked([answer(sql, 0, gold=gold) | {"label_source": "variant:0:0:00000000"}])[0]
    assert "cannot be made again" in found[2]


def test_sqlite_by_url(root, rows, tmp_path):
    """The same by either option, variants too; one of them at a time."""
    gold = "SELECT name FROM author WHERE born > 1950"
    path = root / "database" / "library" / "library.sqlite"
    sql = "SELECT name FROM author WHERE born > 1951"
    with open_database(path) as database, Suite(database, gold, folder=tmp_path) as suite:
        suite.distil([sql])
        named = {"label_source": suite.verdict(sql).on}
    file = tmp_path / "t.jsonl"
    rows = [*rows, answer(sql, 0, gold=gold) | named]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    by_folder = verify([str(file)], root)
    by_url = verify([str(file)], database_url=f"sqlite:///{root}/database/{{db_id}}/{{db_id}}.sqlite")
    assert by_folder == by_url and by_url["checks"]["answer"]["checked"] == len(rows)
    with pytest.raises(SystemExit):
        main(["inspect", str(file), "--databases", str(root), "--database-url", "duckdb:///x.duckdb"])
