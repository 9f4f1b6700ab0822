"""Can wrong steps be told by their words alone? A bag of words that never sees the question.

    prm build --layout spider --root SPIDER --split train --limit 2000 --output train.jsonl
    prm build --layout spider --root SPIDER --split dev --output dev.jsonl
    python benchmarks/shortcuts.py --train train.jsonl --test dev.jsonl

A logistic regression on the words and word pairs of a step's text predicts its label on databases that it has
not seen. What it finds is a shortcut that a PRM could take without reading the question, so its AUC should be
near 0.5. Steps after the first error are left out: they are wrong whatever they say.

Late steps are wrong more often than early ones, and words tell a late step from an early one. That is no
fault of the words, so the AUC is given over all steps, beside what the position alone reaches, and `within
places`, where only steps with the same index in chains of the same length are compared. Questions differ in
how many errors their steps allow, too; `within questions` compares only steps in the same place of the same
question.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from prm.traces.formats import load_traces

WORD = re.compile(r"\w+|[^\w\s]")


def steps_of(files: list[Path]) -> tuple[list[str], np.ndarray, list[tuple], list[tuple]]:
    """Of the steps up to and including each first error: texts, labels, places (index, number of steps),
    and questions with place."""
    texts, labels, places, questions = [], [], [], []
    for trace in load_traces([str(file) for file in files]):
        end = trace.first_error + 1 if trace.first_error >= 0 else len(trace.steps)
        for i, step in enumerate(trace.steps[:end]):
            texts.append(step.text)
            labels.append(int(step.label))
            places.append((i, len(trace.steps)))
            questions.append((trace.question_key, *places[-1]))
    return texts, np.array(labels), places, questions


def words(text: str) -> set[str]:
    found = [word.lower() for word in WORD.findall(text)]
    return {*found, *(" ".join(pair) for pair in pairwise(found))}


def bags(texts: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    matrix = np.zeros((len(texts), len(vocabulary) + 1), dtype=np.float32)
    matrix[:, -1] = 1
    for row, text in zip(matrix, texts, strict=True):
        for word in words(text):
            if (column := vocabulary.get(word)) is not None:
                row[column] = 1
    return matrix


def fit(x: np.ndarray, y: np.ndarray, *, ridge: float = 1e-3, rounds: int = 300) -> np.ndarray:
    """Weights of a ridge logistic regression, classes balanced, by Adam over all rows."""
    balance = np.where(y == 1, 0.5 / max(y.mean(), 1e-9), 0.5 / max(1 - y.mean(), 1e-9))
    w, m, v = (np.zeros(x.shape[1], dtype=np.float64) for _ in range(3))
    for t in range(1, rounds + 1):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (balance * (p - y)) / len(y) + ridge * w
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of (right, wrong) pairs in which the right one scores higher; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    ones = int(labels.sum())
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))


def within(places: list[tuple], labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC over the pairs of a right and a wrong step that stand in the same place."""
    rows = defaultdict(list)
    for i, place in enumerate(places):
        rows[place].append(i)
    total = pairs = 0.0
    for found in rows.values():
        ones = int(labels[found].sum())
        n = ones * (len(found) - ones)
        if n:
            total, pairs = total + n * roc_auc(scores[found], labels[found]), pairs + n
    return total / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True, help="of other databases")
    parser.add_argument("--show", type=int, default=0, help="print so many of the strongest words")
    args = parser.parse_args()
    texts, labels, places, _ = steps_of(args.train)
    counts = Counter(word for text in texts for word in words(text))
    frequent = [word for word, n in counts.most_common(4000) if n >= 10]
    vocabulary = {word: i for i, word in enumerate(frequent)}
    weights = fit(bags(texts, vocabulary), labels)
    test_texts, test_labels, test_places, test_questions = steps_of(args.test)
    scores = bags(test_texts, vocabulary) @ weights
    share = {
        place: np.mean([y for p, y in zip(places, labels, strict=True) if p == place])
        for place in set(places)
    }
    by_place = np.array([share.get(place, labels.mean()) for place in test_places])
    result = {
        "steps": len(test_labels),
        "share_wrong": round(float(1 - test_labels.mean()), 3),
        "auc_words": round(roc_auc(scores, test_labels), 3),
        "auc_place": round(roc_auc(by_place, test_labels), 3),
        "auc_words_within_places": round(within(test_places, test_labels, scores), 3),
        "auc_words_within_questions": round(within(test_questions, test_labels, scores), 3),
    }
    print(json.dumps(result))
    strongest = sorted(vocabulary, key=lambda word: -abs(weights[vocabulary[word]]))[: args.show]
    for word in strongest:
        print(f"{weights[vocabulary[word]]:+.2f} {counts[word]:6d}  {word}")


if __name__ == "__main__":
    main()
