"""Small labelled traces for the tests that train: many share prompts and steps, some labels are missing."""

from __future__ import annotations

import random

from prm.traces.trace import Step, Trace

COLOURS = ("red", "blue", "green")


def make_traces(questions, seed=0, *, soft=False):
    """1 to 5 traces a question that share prompts and steps; some labels missing, some traces right."""
    rng = random.Random(seed)
    traces = []
    for q in range(questions):
        right = rng.choice(COLOURS)
        for _ in range(rng.randint(1, 5)):
            wrong_at, steps, label = rng.choice([-1, 0, 1, 2]), [], 1
            for i in range(rng.randint(2, 4)):
                colour = rng.choice([c for c in COLOURS if c != right]) if i == wrong_at else right
                label = 0 if i == wrong_at else label
                given = (
                    None if rng.random() < 0.1 else abs(label - 0.2) if soft and rng.random() < 0.3 else label
                )
                steps.append(Step(f"Keep the {colour} rows, {i}.", given))
            question = f"How many {right} things of {q}?"
            traces.append(
                Trace(
                    question, steps, group=f"q{q}", db_id=f"d{seed}", schema="thing(id INTEGER, colour TEXT)"
                )
            )
    return traces
