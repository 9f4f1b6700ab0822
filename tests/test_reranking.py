"""Choosing among answers: on plain lists, from Python, and `prm rerank` with its accuracy table."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from prm.cli import main
from prm.errors import InputError
from prm.inference.choosing import Rule, aggregate_scores, choose
from prm.inference.rerank_report import Judged, measure, sizes
from prm.inference.reranking import rerank, result_classes
from prm.inference.scoring import Scorer
from prm.sql import decompose, read_schema, schema_text
from prm.sql.decompose import parse_fragment
from prm.sql.describe import describe
from prm.traces.trace import Step, Trace

# On plain lists


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("last", 0.4),
        ("min", 0.4),
        ("mean", 0.65),
        ("product", 0.9 * 0.5 * 0.8 * 0.4),
        ("length-normalised-product", (0.9 * 0.5 * 0.8 * 0.4) ** 0.25),
        ("no-error", 0.9 * (0.5 / 0.9) * (0.4 / 0.8)),  # the rise to 0.8 brings nothing back
    ],
)
def test_one_score_out_of_those_of_the_steps(how, expected):
    assert aggregate_scores([0.9, 0.5, 0.8, 0.4], how) == pytest.approx(expected)
    assert aggregate_scores([0.7], how) == pytest.approx(0.7)
    assert aggregate_scores([0.7, 0.0], how) == (0.35 if how == "mean" else 0.0)


def test_scores_that_never_rise_are_read_as_survival():
    assert aggregate_scores([0.9, 0.9, 0.3, 0.2], "no-error") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("scores", "results", "options", "chosen"),
    [
        ([0.2, 0.9, 0.3], None, {}, 1),
        ([0.9, 0.2, 0.9], None, {}, 0),  # a tie: the lower index
        ([None, 0.0, 0.1], None, {}, 2),
        ([None, 0.0], None, {}, 1),  # no score comes after the worst score
        ([0.2, 0.9, 0.3], [0, 1, 0], {"how": "vote"}, 2),  # of the result's answers the best
        ([0.2, 0.9, 0.3], [0, 1, 0], {"how": "weighted-vote"}, 1),
        ([0.5, 0.9, 0.5], [0, 1, 0], {"how": "weighted-vote"}, 0),
        ([0.2, 0.9, 0.3], [0, 1, 0], {"how": "weighted-vote", "votes": [4, 1, 1]}, 2),
        (None, ["a", "b", "b", "a"], {"how": "vote"}, 0),  # a tie without scores: the lower index
        ([0.1, 0.2, 0.3, 0.1], ["a", "b", "b", "a"], {"how": "vote"}, 2),  # with scores: the best one
        ([0.3, 0.1, 0.2], [0, 1, 1], {"how": "weighted-vote"}, 0),  # 0.1 + 0.2 is 0.3
        ([0.1, 0.2, 0.3], [1, 1, 0], {"how": "weighted-vote"}, 2),
        ([0.9, 0.1, 0.1], [None, 0, 0], {"how": "weighted-vote"}, 1),  # who fails has no vote
        ([0.9, 0.1, 0.1], [None, 0, 0], {"how": "best"}, 0),
        ([0.9, 0.1, 0.2], [None, 0, 0], {"how": "best", "drop_failing": True}, 2),
        ([0.1, 0.2], [None, None], {"how": "vote"}, 1),  # none runs
        ([0.1, 0.2], [None, None], {"how": "best", "drop_failing": True}, 1),
        ([0.9, 0.1], [0, 1], {"how": "best", "n_rows": [0, 3], "drop_empty": True}, 1),
        ([0.9, 0.1], [0, 0], {"how": "vote", "n_rows": [0, 0], "drop_empty": True}, 0),
    ],
)
def test_which_answer_is_chosen(scores, results, options, chosen):
    assert choose(scores, results, **options) == chosen


def test_a_choice_among_shuffled_answers_is_the_same_answer():
    """Against a rule written out anew; and whatever the order, equal weights are ties."""
    rng = random.Random(0)
    for _ in range(300):
        n = rng.randint(1, 6)
        scores = [rng.choice([0.1, 0.2, 0.3, 0.7]) for _ in range(n)]
        results = [rng.choice([None, 0, 1, 2]) for _ in range(n)]
        votes = [rng.randint(1, 3) for _ in range(n)]
        weights, best = defaultdict(int), defaultdict(float)
        for score, result, vote in zip(scores, results, votes, strict=True):
            if result is not None:
                weights[result] += round(10 * score) * vote
                best[result] = max(best[result], score)
        at = choose(scores, results, how="weighted-vote", votes=votes)
        if not weights:
            assert scores[at] == max(scores)
            continue
        top = max((weights[r], best[r]) for r in weights)
        assert (weights[results[at]], scores[at]) == top
        winners = [i for i in range(n) if results[i] is not None and scores[i] == top[1]]
        assert at == min(i for i in winners if (weights[results[i]], best[results[i]]) == top)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "no answer to choose from"),
        (([0.1, 0.2],), {"how": "vote"}, "a vote needs the results"),
        (([0.1, 0.2],), {"drop_failing": True}, "a filter needs the results"),
        ((None, [1, 2]), {"how": "weighted-vote"}, "needs scores"),
        (([0.1, 0.2], [1]), {}, "1 results for 2 answers"),
        (([0.1],), {"how": "most"}, "best, vote, weighted-vote, not 'most'"),
        (([0.1],), {"drop_empty": True}, "number of rows"),
    ],
)
def test_what_a_choice_needs(arguments, options, message):
    with pytest.raises(InputError, match=message):
        choose(*arguments, **options)


def test_equal_results_have_one_number():
    rows = [[(1, "a"), (2, "b")], [("b", 2), ("a", 1)], None, [(1.0, "a"), (2, "b")], [(1, "b")], [], []]
    assert result_classes(rows, ordered=False) == [0, 0, None, 0, 1, 2, 2]  # columns in any order
    assert result_classes(rows, ordered=True) == [0, 1, None, 0, 2, 3, 3]


# With a model


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    make_model("qwen2").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(checkpoint):
    return Scorer.from_pretrained(checkpoint, device="cpu")


GOLD = "SELECT name FROM singer WHERE age > 30"
ANSWERS = [
    {"sql": "SELECT name FROM singer WHERE age > 30"},
    {"sql": "SELECT country FROM singer WHERE age > 30", "by": "mine"},
    {"sql": "SELECT nam FROM singer"},
    {"sql": "SELECT name FROM singer WHERE age > 30", "votes": 3},
    {
        "steps": [
            {"text": "Keep the old ones: old AS (SELECT name FROM singer WHERE age > 30)"},
            {"text": "Their names.", "sql": "SELECT name FROM old"},
        ]
    },
    {"sql": "```sql\nSELECT name FROM singer WHERE age > 100;\n```"},
]


def line(*candidates, **more):
    row = {"id": "q1", "question": "Who is older than 30?", "db_id": "singers", "gold_sql": GOLD}
    return row | {"candidates": list(candidates)} | more


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def read(file):
    return [json.loads(text) for text in file.read_text().splitlines()]


def test_rerank_from_python(scorer, databases):
    database = databases / "singers" / "singers.sqlite"
    done = rerank(
        scorer, "Who is older than 30?", [a["sql"] for a in ANSWERS[:3]] + [["Count.", "SELECT 1"]],
        database=database, how="weighted-vote", votes=[1, 1, 1, 5],
    )  # fmt: skip
    assert done.results == [0, 1, None, 2]
    schema = schema_text(read_schema(database), "Who is older than 30?")
    steps = [Step("Count."), Step("SELECT 1")]
    expected = scorer.score([Trace("Who is older than 30?", steps, schema=schema)])[0]
    assert done.step_scores[3] == pytest.approx(expected, abs=1e-4)
    assert done.scores[3] == done.step_scores[3][-1]
    assert done.chosen == choose(done.scores, done.results, how="weighted-vote", votes=[1, 1, 1, 5])
    alone = rerank(scorer, "Who?", ["SELECT 1", "SELECT 2"], schema="t(a)", aggregate="min")
    assert alone.results is None and alone.scores[alone.chosen] == max(alone.scores)


def command(data, output, *more):
    return main(["rerank", "--data", str(data), "--output", str(output), *map(str, more)])


@pytest.fixture(scope="module")
def reranked(checkpoint, databases, tmp_path_factory):
    """`prm rerank` on two questions: the input's rows, and the file that it writes."""
    folder = tmp_path_factory.mktemp("reranked")
    rows = [
        line(*ANSWERS, mine={"kept": [1]}),
        line(*ANSWERS[:2], id="q2", gold_sql=None, schema="singer(name)", evidence="old: over 30"),
    ]
    data = write(folder / "candidates.jsonl", *rows)
    models = ["--model", checkpoint, "--databases", databases]
    assert command(data, folder / "out.jsonl", *models, "--choose", "weighted-vote") == 0
    return rows, folder / "out.jsonl"


def test_prm_rerank_writes_the_lines_back_with_the_choice(reranked, scorer, databases):
    rows, output = reranked
    first, second = read(output)
    assert first["mine"] == {"kept": [1]} and first["candidates"][1]["by"] == "mine"
    for row, made in zip(rows, (first, second), strict=True):  # nothing is lost or changed
        assert {k: v for k, v in made.items() if k in row and k != "candidates"} == {
            k: v for k, v in row.items() if k != "candidates"
        }
        for before, after in zip(row["candidates"], made["candidates"], strict=True):
            assert {k: v for k, v in after.items() if k != "scores"} == before
    assert first["results"] == [0, 1, None, 0, 0, 2]
    assert first["n_rows"] == [3, 3, None, 3, 3, 0]
    assert first["correct"] == [True, False, False, True, True, False] and "correct" not in second
    assert first["scores"] == [c["scores"][-1] for c in first["candidates"]]
    assert first["chosen"] == choose(
        first["scores"], first["results"], how="weighted-vote", votes=[1, 1, 1, 3, 1, 1]
    )
    # as prm label cuts it, under the schema of the database
    (step,) = first["candidates"][0]["scores"]
    schema = schema_text(read_schema(databases / "singers" / "singers.sqlite"), rows[0]["question"])
    (only,) = decompose(ANSWERS[0]["sql"])
    text = f"{describe(parse_fragment(only.sql)[1], None)}\n{only.sql}"
    expected = scorer.score([Trace(rows[0]["question"], [Step(text)], schema=schema)])[0]
    assert [step] == pytest.approx(expected, abs=1e-4)
    given = [Step(s["text"]) for s in ANSWERS[4]["steps"]]
    expected = scorer.score([Trace(rows[0]["question"], given, schema=schema)])[0]
    assert first["candidates"][4]["scores"] == pytest.approx(expected, abs=1e-4)
    # and under the schema of the line where it has one
    trace = Trace(rows[1]["question"], [Step(text)], schema="singer(name)", evidence="old: over 30")
    assert second["candidates"][0]["scores"] == pytest.approx(scorer.score([trace])[0], abs=1e-4)


def test_equal_candidates_are_read_once(checkpoint, databases, tmp_path, monkeypatch):
    seen = []
    score = Scorer.score
    monkeypatch.setattr(
        Scorer, "score", lambda self, traces, **o: seen.extend(traces) or score(self, traces, **o)
    )
    data = write(tmp_path / "c.jsonl", line(*ANSWERS), line(*ANSWERS[:2]))
    assert command(data, tmp_path / "o.jsonl", "--model", checkpoint, "--databases", databases) == 0
    assert len(seen) == 5 + 2  # the first and the fourth candidate are one


def test_scores_and_results_of_a_file_are_used_again(reranked, tmp_path):
    """Without a model and without databases (and without torch): another choice, another aggregation."""
    _, output = reranked
    again = tmp_path / "again.jsonl"
    code = (
        "import sys\nfrom prm.cli import main\n"
        f"status = main(['rerank', '--data', {str(output)!r}, '--output', {str(again)!r}, '--choose', "
        "'weighted-vote', '--aggregate', 'mean'])\n"
        "assert status == 0 and 'torch' not in sys.modules, status"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for before, after in zip(read(output), read(again), strict=True):
        expected = [aggregate_scores(c["scores"], "mean") for c in before["candidates"]]
        assert after["scores"] == expected
        votes = [c.get("votes", 1) for c in before["candidates"]]
        assert after["chosen"] == choose(expected, before["results"], how="weighted-vote", votes=votes)
        for key in ("results", "n_rows", "correct", "candidates"):
            assert after.get(key) == before.get(key)
    assert (tmp_path / "again.jsonl.metrics.json").exists()


def test_scores_from_anywhere(tmp_path):
    """One number a candidate, and a vote over results that somebody else has compared."""
    row = line({"sql": "a"}, {"sql": "b"}, {"sql": "c"}, scores=[0.2, 0.9, 0.3], results=["x", "y", "x"])
    data = write(tmp_path / "c.jsonl", row)
    for how, chosen in (("best", 1), ("vote", 2), ("weighted-vote", 1)):
        assert command(data, tmp_path / "o.jsonl", "--choose", how) == 0
        assert [r["chosen"] for r in read(tmp_path / "o.jsonl")] == [chosen]
    assert not (tmp_path / "o.jsonl.metrics.json").exists()  # nobody knows what is right


def test_an_interrupted_run_goes_on(checkpoint, databases, tmp_path, monkeypatch, capsys):
    """What was scored before the interrupt is not scored again, and the output is as if nothing had been."""
    data = write(tmp_path / "c.jsonl", *(line(*ANSWERS[: 1 + i % 4], id=str(i)) for i in range(20)))
    models = ["--model", checkpoint, "--databases", databases]
    assert command(data, tmp_path / "whole.jsonl", *models) == 0
    score, calls = Scorer.score, []

    def interrupted(self, traces, **options):
        calls.append(len({trace.group for trace in traces}))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, traces, **options)

    monkeypatch.setattr(Scorer, "score", interrupted)
    assert command(data, tmp_path / "o.jsonl", *models) == 130
    assert not (tmp_path / "o.jsonl").exists()
    capsys.readouterr()
    assert command(data, tmp_path / "o.jsonl", *models) == 0
    assert "8 of 20 questions are done already: going on" in capsys.readouterr().err
    assert calls == [8, 8, 8, 4]
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "o.jsonl.journal").exists()


def test_workers_change_nothing(databases, tmp_path):
    data = write(tmp_path / "c.jsonl", *(line(*ANSWERS, id=str(i)) for i in range(20)))
    for n in ("1", "2"):
        options = ["--databases", databases, "--choose", "vote", "--workers", n]
        assert command(data, tmp_path / f"{n}.jsonl", *options) == 0
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_hostile_candidates_harm_nothing(checkpoint, databases, tmp_path):
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT MAX(n) FROM t"
    hostile = [
        "", "DROP TABLE singer", endless, "SELECT 1; DELETE FROM singer", "(" * 3000, "SELECT <|im_end|>",
        "ATTACH 'x.db' AS x", "\u0000", "SELECT " + "a, " * 20000 + "a FROM singer",
    ]  # fmt: skip
    prose = {"steps": [{"text": "No SQL at all."}]}
    data = write(tmp_path / "c.jsonl", line(*({"sql": s} for s in hostile), prose, {"sql": GOLD}))
    before = (databases / "singers" / "singers.sqlite").read_bytes()
    options = ["--databases", databases, "--timeout", "0.5", "--choose", "vote"]
    assert command(data, tmp_path / "o.jsonl", *options) == 0
    (made,) = read(tmp_path / "o.jsonl")
    assert made["results"] == [None] * 10 + [0] and made["chosen"] == 10
    assert (databases / "singers" / "singers.sqlite").read_bytes() == before
    # one that is too long for the model has no score; the others have theirs
    options = ["--model", checkpoint, "--databases", databases, "--timeout", "0.5"]
    assert command(data, tmp_path / "o.jsonl", *options) == 0
    (made,) = read(tmp_path / "o.jsonl")
    assert [score is None for score in made["scores"]] == [len(s) > 2999 for s in hostile] + [False, False]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (line(), [], "'candidates' must be a non-empty list"),
        (line("SELECT 1"), [], 'candidate 0 (from 0): an answer is {"sql"'),
        (line({"sql": "a", "votes": 0}), [], "candidate 0 (from 0): 'votes' must be a whole number"),
        (line({"steps": []}), [], "'steps' must be a non-empty list"),
        (line({"sql": "a"}, question=" "), [], "'question' must be a non-empty text"),
        (line({"sql": "a"}, schema=3), [], "'schema' must be a text"),
        (line({"sql": "a"}), [], "--choose best needs scores: give --model"),
        (line({"sql": "a"}, scores=[0.1, 0.2]), [], "'scores' must hold a number in [0, 1] or null"),
        (line({"sql": "a"}, scores=[2]), [], "'scores' must hold a number in [0, 1] or null"),
        (line({"sql": "a", "scores": [0.5, -1]}), [], "'scores' must hold a list of numbers in [0, 1]"),
        (line({"sql": "a"}, scores=[0.1]), ["--choose", "vote"], "needs results: give --databases"),
        (line({"sql": "a"}, scores=[0.1]), ["--drop-failing"], "--drop-failing needs results"),
        (line({"sql": "a"}, scores=[0.1]), ["--drop-empty"], "--drop-empty needs results"),
        (line({"sql": "a"}, scores=[0.1], db_id="x"), ["--databases", "{dir}"], "there is no database 'x'"),
        (line({"sql": "a"}, scores=[0.1], db_id=None), ["--databases", "{dir}"], "'db_id' must name"),
        ("{", [], ""),
    ],
)
def test_bad_lines_are_named(row, options, message, databases, tmp_path, capsys):
    good = line({"sql": GOLD, "scores": [0.5]}, results=[0], n_rows=[1])
    data = tmp_path / "c.jsonl"
    data.write_text(json.dumps(good) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    options = [option.format(dir=databases) for option in options]
    assert command(data, tmp_path / "o.jsonl", *options) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"prm: {data}:2: ") and message in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.jsonl"]


def test_bad_lines_are_skipped_and_counted(tmp_path, capsys):
    good = line({"sql": GOLD, "scores": [0.5]})
    data = write(tmp_path / "c.jsonl", line(), good)
    assert command(data, tmp_path / "o.jsonl", "--on-bad-rows", "skip") == 0
    assert len(read(tmp_path / "o.jsonl")) == 1
    assert "skipped 1 of 2 rows: 1 x 'candidates' must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "{tmp}/none.jsonl"], "{tmp}/none.jsonl: there is no such file"),
        (["--databases", "{tmp}/none"], "{tmp}/none: no such folder; --databases is the data set's folder"),
        (["--output", "{tmp}"], "is a folder; name a file to write"),
        (["--output", "{tmp}/o.parquet"], "JSON lines are written here"),
        (["--timeout", "0"], "--timeout must be more than 0 seconds"),
        (["--model", "{tmp}"], "is no PRM checkpoint"),
    ],
)
def test_bad_usage(options, message, tmp_path, capsys):
    data = write(tmp_path / "c.jsonl", line({"sql": GOLD, "scores": [0.5]}))
    options = [option.format(tmp=tmp_path) for option in options]
    assert main(["rerank", "--data", data, "--output", str(tmp_path / "o.jsonl"), *options]) == 2
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("prm: ")]
    assert len(said) == 1 and message.format(tmp=tmp_path) in said[0]
    assert not (tmp_path / "o.jsonl").exists()


# How good the choices are


def judged(scores, results, correct, *, votes=None, chosen=0, hardness="easy", n_rows=None):
    return Judged(chosen, scores, results, votes or [1] * len(correct), n_rows, correct, hardness=hardness)


#: Two mixed questions, one on which all answers are right, one on which none is.
QUESTIONS = [
    judged([0.9, 0.2, 0.2], [0, 1, 1], [True, False, False]),  # the score finds what the vote misses
    judged([0.8, 0.3, 0.6], [0, 1, 1], [False, True, True], chosen=2, hardness="hard"),
    judged([0.5, 0.5], [0, 0], [True, True], hardness="hard"),
    judged([0.5], [None], [False], hardness=None),
]


def test_accuracy_of_every_choice():
    metrics = measure(QUESTIONS, Rule())
    assert metrics["n_questions"] == 4 and metrics["n_candidates"] == metrics["n_samples"] == 9
    accuracy = metrics["accuracy"]
    assert list(accuracy) == ["all", "mixed", "easy", "hard"]
    rights = {  # of the two mixed questions
        "first": 1, "random": 1 / 3 + 2 / 3, "majority": 1, "best": 1, "weighted_vote": 2, "oracle": 2,
        "chosen": 2,
    }  # fmt: skip
    for key, right in rights.items():
        assert accuracy["mixed"][key] == pytest.approx(right / 2), key
        assert accuracy["all"][key] == pytest.approx((right + 1) / 4), key
        low, high = metrics["ci"]["all"][key]
        assert 0 <= low <= accuracy["all"][key] <= high <= 1
    assert (accuracy["easy"]["n"], accuracy["easy"]["majority"], metrics["ci"]["easy"]["best"]) == (
        1,
        0,
        None,
    )
    pair = metrics["differences"]["mixed"]["weighted_vote-majority"]
    assert pair["difference"] == 0.5 and pair["ci"] == [0.0, 1.0]
    assert pair["share_above"] == pytest.approx(0.75, abs=0.06)  # a resample with the first of the two
    assert metrics == measure(QUESTIONS, Rule())  # seeded


def test_accuracy_by_number_of_samples():
    metrics = measure(QUESTIONS, Rule())
    rows = metrics["by_n"]["mixed"]
    assert [row["n"] for row in rows] == [1, 2, 3]
    for key in ("majority", "best", "weighted_vote", "oracle"):
        assert rows[-1][key] == metrics["accuracy"]["mixed"][key]  # with all samples there is one order
        assert rows[0][key] == rows[0]["best"]  # with one sample there is one choice
    assert rows[0]["oracle"] <= rows[1]["oracle"] <= rows[2]["oracle"]
    assert rows[0]["best"] == pytest.approx(metrics["accuracy"]["mixed"]["random"])
    assert sizes(14) == list(range(1, 15)) and sizes(100) == [*range(1, 17), 32, 64, 100]


def test_votes_are_samples():
    """A candidate with votes is as many candidates."""
    merged = [judged([0.9, 0.2], [0, 1], [True, False], votes=[1, 3])]
    apart = [judged([0.9, 0.2, 0.2, 0.2], [0, 1, 1, 1], [True, False, False, False])]
    one, other = measure(merged, Rule()), measure(apart, Rule())
    assert one["n_samples"] == other["n_samples"] == 4
    assert one["accuracy"] == other["accuracy"]
    assert [row["n"] for row in one["by_n"]["all"]] == [1, 2, 3, 4]


def test_shuffled_scores_are_a_control():
    """Where the scores know what is right, dealing them anew takes it away; where all are equal, nothing."""
    knowing = [judged([0.9, 0.1, 0.1], [0, 1, 2], [True, False, False])] * 40
    metrics = measure(knowing, Rule())["accuracy"]["mixed"]
    assert metrics["weighted_vote"] == 1 and metrics["shuffled_vote"] < 0.8
    equal = [judged([0.5, 0.5, 0.5], [0, 1, 1], [True, False, False])] * 4
    metrics = measure(equal, Rule())["accuracy"]["mixed"]
    assert metrics["weighted_vote"] == metrics["shuffled_vote"] == metrics["majority"] == 0


def test_without_scores_or_results_their_choices_have_no_figure():
    no_scores = measure([judged(None, [0, 1, 1], [True, False, False])] * 2, Rule())
    accuracy = no_scores["accuracy"]["all"]
    assert [accuracy[key] for key in ("best", "weighted_vote", "shuffled_vote")] == [None] * 3
    assert accuracy["majority"] == 0 and no_scores["by_n"]["all"][0]["best"] is None
    no_results = measure([judged([0.1, 0.2], None, [True, False])] * 2, Rule())["accuracy"]["all"]
    assert (no_results["best"], no_results["majority"], no_results["oracle"]) == (0, None, 1)


def test_the_filters_hold_for_every_choice():
    pool = [judged([0.9, 0.2, 0.1], [0, None, 1], [False, False, True], n_rows=[0, None, 3])] * 2
    plain = measure(pool, Rule())["accuracy"]["all"]
    assert (plain["best"], plain["majority"], plain["weighted_vote"]) == (0, 0, 0)
    filtered = measure(pool, Rule(drop_empty=True, drop_failing=True))["accuracy"]["all"]
    assert (filtered["best"], filtered["majority"], filtered["weighted_vote"]) == (1, 1, 1)


def test_the_table_and_the_report(reranked, tmp_path, capsys):
    _, output = reranked
    evil = "<script>alert(1)</script>"
    row = read(output)[0] | {"question": evil}
    second = line(
        {"sql": "SELECT 1", "correct": True}, {"sql": evil, "correct": False}, {"sql": "c", "correct": False},
        scores=[0.9, 0.2, 0.2], results=[0, 1, 1], question=evil,
    )  # fmt: skip
    data = write(tmp_path / "c.jsonl", row, second)
    assert command(data, tmp_path / "o.jsonl", "--choose", "weighted-vote") == 0
    out = capsys.readouterr().out
    assert "weighted vote − majority" in out and "differences, paired" in out and not re.search(r"\d…", out)
    assert all(len(text) <= 80 for text in out.splitlines() if "jsonl" not in text)
    metrics = json.loads((tmp_path / "o.jsonl.metrics.json").read_text())
    assert metrics["accuracy"]["all"]["n"] == 2 and metrics["how"] == "weighted-vote"
    html = (tmp_path / "o.jsonl.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html and "://" not in html
    assert "Won" in html and "<svg" in html and f"{metrics['accuracy']['all']['weighted_vote']:.3f}" in html
