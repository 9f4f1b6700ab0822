"""How good is a choice among answers? Execution accuracy beside what knows less, and what knows all.

`measure` gives these keys, which `prm rerank` writes to `<output>.metrics.json`:

| key | meaning |
|---|---|
| `n_questions`, `n_without_gold`, `n_candidates`, `n_samples` | measured questions; those left out because gold is missing or does not run; their candidates, and with votes |
| `accuracy` | for each group of questions (`all`; `mixed`: some answers right, some wrong; Spider's `easy`, `medium`, `hard`, `extra`): `n`, and the share of questions for which each choice is right |
| `ci` | 95 % bootstrap intervals of these, over questions |
| `differences` | for each group and pair (`weighted_vote-majority` …): `difference`, its `ci` by the same resamples for both (paired), `share_above`: resamples in which it is above 0 |
| `by_n` | for `all` and `mixed`: accuracy with the first 1, 2 … N samples, as a mean over seeded orders |

The choices:

| key | the answer |
|---|---|
| `first` | that stands first |
| `random` | drawn at random by votes (the expectation) |
| `majority` | of the result with most votes; ties by the lowest index, for it knows no scores |
| `best` | with the best score |
| `weighted_vote` | of the result with the largest sum of votes times score |
| `shuffled_vote` | the same, with the scores dealt anew among the answers to the question: mean over seeded deals. What is left of `weighted_vote` if the scores say nothing |
| `oracle` | any right one |
| `chosen` | that `prm rerank` has chosen |

Without scores or results, what needs them is null.
"""  # noqa: E501 (a table)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from rich import box
from rich.table import Table

from prm import __version__
from prm.evaluation.report import chart, line, template
from prm.inference.choosing import Rule, choose
from prm.sql.hardness import HARDNESS

CHOICES = {
    "first": "first",
    "random": "random",
    "majority": "majority",
    "best": "PRM best",
    "weighted_vote": "weighted vote",
    "shuffled_vote": "shuffled",
    "oracle": "oracle",
    "chosen": "chosen",
}
PAIRS = (("weighted_vote", "majority"), ("best", "majority"), ("weighted_vote", "shuffled_vote"))
GROUPS = ("all", "mixed", *HARDNESS)
CURVES = ("random", "majority", "best", "weighted_vote", "oracle")

DEALS = 20  # of the scores, for `shuffled_vote`
RESAMPLES = 1000
#: Orders in which samples come, for `by_n`: fewer of them with more questions, which average out as well.
MOST_ORDERS, ALL_ORDERS = 20, 20_000
N_SHOWN = 10


@dataclass
class Judged:
    """What is known of the candidates of a question, lists with an entry each, and which was chosen."""

    chosen: int
    scores: list[float | None] | None
    results: list[Any] | None
    votes: list[int]
    n_rows: list[int | None] | None = None
    correct: list[bool] | None = None
    step_scores: list[list[float] | None] | None = None
    gold: str | None = None
    hardness: str | None = None

    @property
    def mixed(self) -> bool:
        return self.correct is not None and any(self.correct) and not all(self.correct)


def measure(judged: Sequence[Judged], rule: Rule, *, seed: int = 0) -> dict[str, Any]:
    """The metrics of the module docstring over the questions whose answers are known to be right or wrong.

    `rule` gives the filters of all choices that look at results or scores.
    """
    known = [each for each in judged if each.correct is not None]
    table = np.array([_row(each, rule, seed, i) for i, each in enumerate(known)], dtype=np.float64)
    groups = {
        name: np.array([_belongs(each, name) for each in known])
        for name in GROUPS
        if any(_belongs(each, name) for each in known)
    }
    rng = np.random.default_rng(seed)
    metrics: dict[str, Any] = {
        "n_questions": len(known),
        "n_without_gold": len(judged) - len(known),
        "n_candidates": sum(len(each.votes) for each in known),
        "n_samples": sum(sum(each.votes) for each in known),
        "accuracy": {},
        "ci": {},
        "differences": {},
    }
    for name, members in groups.items():
        rows = table[members]
        n = len(rows)
        means = rows.mean(0)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) @ rows / n  # (resamples, choices)
        metrics["accuracy"][name] = {"n": n} | {
            key: _number(value) for key, value in zip(CHOICES, means, strict=True)
        }
        metrics["ci"][name] = {
            key: _interval(column) if n > 1 else None for key, column in zip(CHOICES, drawn.T, strict=True)
        }
        metrics["differences"][name] = {}
        for one, other in PAIRS:
            a, b = list(CHOICES).index(one), list(CHOICES).index(other)
            difference = drawn[:, a] - drawn[:, b]
            metrics["differences"][name][f"{one}-{other}"] = {
                "difference": _number(means[a] - means[b]),
                "ci": _interval(difference) if n > 1 else None,
                "share_above": None if np.isnan(difference).any() else float((difference > 1e-12).mean()),
            }
    metrics["by_n"] = _by_n(known, rule, seed)
    return metrics


def _belongs(each: Judged, group: str) -> bool:
    return group == "all" or (each.mixed if group == "mixed" else each.hardness == group)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else [float(q) for q in np.percentile(values, [2.5, 97.5])]


Pick = Callable[[Sequence[int], Sequence[int]], float]


def _picks(each: Judged, rule: Rule) -> dict[str, Pick]:
    """For each choice that looks at scores or results, whether it is right on some of the candidates:
    f(indexes, votes)."""
    correct = each.correct or []

    def pick(how: Any, scores: list[float | None] | None) -> Pick:
        def right(some: Sequence[int], votes: Sequence[int]) -> float:
            def of(values: list[Any] | None) -> list[Any] | None:
                return None if values is None else [values[i] for i in some]

            at = choose(
                of(scores), of(each.results), how=how, votes=votes, n_rows=of(each.n_rows),
                drop_failing=rule.drop_failing, drop_empty=rule.drop_empty,
            )  # fmt: skip
            return float(correct[some[at]])

        return right

    picks = {}
    if each.results is not None:
        picks["majority"] = pick("vote", None)
    if each.scores is not None:
        picks["best"] = pick("best", each.scores)
    if each.results is not None and each.scores is not None:
        picks["weighted_vote"] = pick("weighted-vote", each.scores)
    return picks


def _row(each: Judged, rule: Rule, seed: int, number: int) -> list[float]:
    """How right each of `CHOICES` is on a question; NaN for what cannot be chosen."""
    correct, n = each.correct or [], len(each.votes)
    row = dict.fromkeys(CHOICES, float("nan"))
    row["first"] = float(correct[0])
    row["random"] = sum(v for v, right in zip(each.votes, correct, strict=True) if right) / sum(each.votes)
    row["oracle"], row["chosen"] = float(any(correct)), float(correct[each.chosen])
    row |= {key: right(range(n), each.votes) for key, right in _picks(each, rule).items()}
    if not np.isnan(row["weighted_vote"]):
        row["shuffled_vote"] = row["weighted_vote"] if not each.mixed else _shuffled(each, rule, seed, number)
    return [row[key] for key in CHOICES]


def _shuffled(each: Judged, rule: Rule, seed: int, number: int) -> float:
    """The weighted vote with the scores of different answers dealt anew; equal answers keep equal scores."""
    keys = list(zip(each.scores or [], each.results or [], strict=True))
    distinct = list(dict.fromkeys(keys))
    rng = np.random.default_rng([seed, number, 1])
    right = 0.0
    for _ in range(DEALS):
        dealt = {key: distinct[i][0] for key, i in zip(distinct, rng.permutation(len(distinct)), strict=True)}
        at = choose(
            [dealt[key] for key in keys], each.results, how="weighted-vote", votes=each.votes,
            n_rows=each.n_rows, drop_failing=rule.drop_failing, drop_empty=rule.drop_empty,
        )  # fmt: skip
        right += (each.correct or [])[at]
    return right / DEALS


def sizes(most: int) -> list[int]:
    """The N of the curves: every one up to 16, then powers of two, and the largest."""
    larger = [2**k for k in range(5, most.bit_length())]
    return sorted({*range(1, min(most, 16) + 1), *(n for n in larger if n < most), most})


def _by_n(known: Sequence[Judged], rule: Rule, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Accuracy with the first n samples of each question, in orders that are drawn; a question with fewer
    samples takes all of them."""
    points = sizes(max(sum(each.votes) for each in known))
    orders = int(np.clip(ALL_ORDERS // len(known), 2, MOST_ORDERS))
    sums = np.zeros((len(known), len(points), len(CURVES)))
    for number, each in enumerate(known):
        correct = each.correct or []
        picks = _picks(each, rule)
        if not each.mixed:
            sums[number] = float(correct[0])
            missing = [
                i for i, key in enumerate(CURVES) if key not in picks and key not in ("random", "oracle")
            ]
            sums[number][:, missing] = np.nan
            continue
        samples = np.repeat(np.arange(len(correct)), each.votes)
        drawn = _orders(samples, orders, np.random.default_rng([seed, number, 0]))
        for order in drawn:
            for at, n in enumerate(points):
                some, votes = np.unique(order[:n], return_counts=True)
                some, votes = some.tolist(), votes.tolist()
                right = {key: f(some, votes) for key, f in picks.items()}
                right["oracle"] = float(any(correct[i] for i in some))
                right["random"] = float(np.mean([correct[i] for i in samples]))
                sums[number, at] += [right.get(key, float("nan")) for key in CURVES]
        sums[number] /= len(drawn)
    mixed = np.array([each.mixed for each in known])
    return {
        name: [
            {"n": n} | {key: _number(value) for key, value in zip(CURVES, means, strict=True)}
            for n, means in zip(points, sums[members].mean(0), strict=True)
        ]
        for name, members in (("all", np.ones_like(mixed)), ("mixed", mixed))
        if members.any()
    }


def _orders(samples: np.ndarray, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Some `n` random orders of samples: rotations of a few, so that all samples come first equally often."""
    shifts = np.linspace(0, len(samples), min(n, len(samples)), endpoint=False).astype(int)
    shuffled = [rng.permutation(samples) for _ in range(max(1, n // len(samples)))]
    return [np.roll(order, -shift) for order in shuffled for shift in shifts]


# --- for people ---------------------------------------------------------------------------------------------


def accuracy_table(metrics: dict[str, Any]) -> Table:
    """The choices beside each other, to be printed by rich; it fits into 80 columns."""
    groups = list(metrics["accuracy"])
    table = Table(
        title="execution accuracy",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("choice", no_wrap=True)
    for name in groups:
        table.add_column(f"{name}\n{metrics['accuracy'][name]['n']}", justify="right", no_wrap=True)
        if name in ("all", "mixed"):
            table.add_column("95 %", justify="right", no_wrap=True)
    for key, words in CHOICES.items():
        cells = []
        for name in groups:
            cells.append(_short(metrics["accuracy"][name][key]))
            if name in ("all", "mixed"):
                cells.append("–".join(map(_short, metrics["ci"][name][key] or ())))
        table.add_row(words, *cells)
    return table


def difference_table(metrics: dict[str, Any]) -> Table:
    """The paired differences of choices, for all questions and for mixed ones."""
    table = Table(
        title="differences, paired", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    table.add_column("choices", no_wrap=True)
    groups = [name for name in ("all", "mixed") if name in metrics["differences"]]
    for name in groups:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("95 %", justify="right", no_wrap=True)
    for one, other in PAIRS:
        cells = []
        for name in groups:
            pair = metrics["differences"][name][f"{one}-{other}"]
            cells.append("–" if pair["difference"] is None else f"{pair['difference']:+.3f}")
            cells.append(" … ".join(f"{x:+.3f}".replace("0.", ".") for x in pair["ci"] or ()))
        table.add_row(f"{CHOICES[one]} − {CHOICES[other]}", *cells)
    return table


def _short(value: float | None) -> str:
    """.897, or 1.00: four characters."""
    return "–" if value is None else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1.00"


def difference_words(metrics: dict[str, Any]) -> list[str]:
    """One line for each pair: its difference with its interval, for all questions and mixed ones."""
    lines = []
    for one, other in PAIRS:
        parts = []
        for name in ("all", "mixed"):
            pair = metrics["differences"].get(name, {}).get(f"{one}-{other}")
            if pair is not None and pair["difference"] is not None:
                interval = pair["ci"]
                between = "" if interval is None else f" [{interval[0]:+.3f}, {interval[1]:+.3f}]"
                parts.append(f"{name} {pair['difference']:+.3f}{between}")
        if parts:
            other_words = "itself with shuffled scores" if other == "shuffled_vote" else CHOICES[other]
            lines.append(f"{CHOICES[one]} − {other_words}: {'; '.join(parts)}")
    return lines


def changed_choices(rows: Sequence[dict[str, Any]], judged: Sequence[Judged], rule: Rule) -> dict[str, Any]:
    """Questions on which the weighted vote is right and majority is not, and the other way round: how many,
    and the first of each."""
    won: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for row, each in zip(rows, judged, strict=True):
        if not each.mixed or each.scores is None or each.results is None:
            continue
        pick = partial(
            choose, results=each.results, votes=each.votes, n_rows=each.n_rows,
            drop_failing=rule.drop_failing, drop_empty=rule.drop_empty,
        )  # fmt: skip
        vote, weighted = pick(None, how="vote"), pick(each.scores, how="weighted-vote")
        correct = each.correct or []
        if correct[vote] != correct[weighted]:
            (won if correct[weighted] else lost).append(
                {
                    "question": str(row["question"]),
                    "db_id": row.get("db_id"),
                    "gold_sql": str(row.get("gold_sql") or ""),
                    "majority": _answer(row, each, vote),
                    "weighted": _answer(row, each, weighted),
                }
            )
    return {"n_won": len(won), "n_lost": len(lost), "won": won[:N_SHOWN], "lost": lost[:N_SHOWN]}


def _answer(row: dict[str, Any], each: Judged, at: int) -> dict[str, Any]:
    """A candidate as the report shows it, with the votes of its result and their mean score."""
    candidate = row["candidates"][at]
    steps = candidate.get("steps") or []
    text = candidate.get("sql") or "\n".join(s if isinstance(s, str) else str(s.get("text")) for s in steps)
    same = [i for i, result in enumerate(each.results or []) if result == (each.results or [])[at]]
    scores = [s for i in same if (s := (each.scores or [])[i]) is not None]
    return {
        "sql": text[:2000],
        "votes": sum(each.votes[i] for i in same),
        "mean_score": float(np.mean(scores)) if scores else None,
    }


def render(metrics: dict[str, Any], shown: dict[str, Any]) -> str:
    """The report: one HTML file without scripts or outside addresses."""
    return template("rerank.html").render(
        version=__version__,
        metrics=metrics,
        choices=CHOICES,
        groups=list(metrics["accuracy"]),
        differences=difference_words(metrics),
        charts={name: _curves(rows, name) for name, rows in metrics["by_n"].items() if len(rows) > 1},
        shown=shown,
    )


def _curves(rows: Sequence[dict[str, Any]], name: str) -> Markup:
    """Accuracy by number of samples; N on a logarithmic axis."""
    ns = np.array([row["n"] for row in rows], dtype=float)
    values = [np.array([np.nan if row[key] is None else row[key] for row in rows]) for key in CURVES]
    shown = np.concatenate(values)
    step = next((s for s in (0.02, 0.05, 0.1) if np.nanmax(shown) - np.nanmin(shown) <= 5 * s), 0.2)
    low = step * np.floor(np.nanmin(shown) / step + 1e-9)
    high = max(step * np.ceil(np.nanmax(shown) / step - 1e-9), low + step)
    low, high = max(float(low), 0.0), float(high)
    xs = np.log2(ns) / np.log2(ns[-1])
    ticks = [(float(np.log2(n) / np.log2(ns[-1])), f"{n:g}") for n in ns if np.log2(n).is_integer()]
    if np.log2(ns[-1]) % 1 > 0.4:
        ticks.append((1.0, f"{ns[-1]:g}"))
    marks_at = np.arange(round(low / step), round(high / step) + 1) * step
    heights = [(float((y - low) / (high - low)), f"{y:.2f}") for y in marks_at]
    styles = ("chance", "c3", "c2", "c1", "c4")
    marks = [
        line(xs, (v - low) / (high - low), css)
        for v, css in zip(values, styles, strict=True)
        if not np.isnan(v).all()
    ]
    title = f"Execution accuracy by number of samples, {name} questions"
    return chart(title, "samples N", "execution accuracy", *marks, x_ticks=ticks, y_ticks=heights)
