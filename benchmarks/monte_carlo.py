"""What Monte-Carlo labels cost and how often they are right, with a policy whose strength is known.

    python benchmarks/monte_carlo.py --data traces.jsonl --databases DIR

The traces are those of `prm build`, whose labels are facts about the database. The policy knows the right
trace of each question: from a right prefix it finishes rightly with the chance `--strength`, from a wrong one
never. So a first error that differs from the built one is a right prefix that the policy failed to finish K
times, and the table shows what a number of rollouts and a kind of search buy. A trace is undecided where the
search found that the policy cannot solve its question.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from prm.inference.policies import Answered, Completion, Request, form_of, prefix_text
from prm.labeling.judge import error_position
from prm.labeling.monte_carlo import Plan, label_answers
from prm.traces.formats import load_traces
from prm.traces.trace import Trace


class KnownStrength:
    """Finishes right prefixes with a fixed chance; anything else that it says is wrong."""

    name, width, remote = "known-strength", 256, False

    def __init__(self, traces: list[Trace], strength: float) -> None:
        self.strength = strength
        self.rest: dict[tuple[str, str], str] = {}
        for trace in traces:
            form = form_of(trace.steps)
            for n in range(len(trace.steps)):
                left = "\n\n".join(step.text for step in trace.steps[n:])
                self.rest[trace.question, prefix_text(trace.steps[:n], form)] = left

    def settings(self) -> dict[str, object]:
        return {"policy": self.name, "strength": self.strength}

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answered]]:
        for i, request in enumerate(requests):
            question = request.prompt.rpartition("\nQuestion: ")[2].removesuffix("\nSteps:\n")
            rest = self.rest.get((question, request.prefix))
            lucky = Random(request.seed).random() < self.strength
            text = rest if rest is not None and lucky else "SELECT 'no', 'idea', 'at', 'all'"
            yield i, Answered([Completion(text)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="traces of prm build")
    parser.add_argument("--databases", required=True)
    parser.add_argument("--strength", type=float, default=0.3)
    parser.add_argument("--limit", type=int, default=400, help="traces with three steps or more")
    args = parser.parse_args()
    traces = load_traces(args.data)
    right = [trace for trace in traces if trace.first_error < 0]
    wrong = [trace for trace in traces if trace.first_error >= 0 and len(trace.steps) >= 3][: args.limit]
    print(f"{len(wrong)} wrong traces, {sum(len(t.steps) for t in wrong)} steps, strength {args.strength}")
    print("| search | K | rollouts a trace | decided | of these as built | rollouts/s |")
    print("|---|---|---|---|---|---|")
    for rollouts in (2, 4, 8, 16):
        for search in ("steps", "binary"):
            policy = KnownStrength(right, args.strength)
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                output, began = Path(folder) / "out.jsonl", time.monotonic()
                plan = Plan(rollouts=rollouts, search=search)
                label_answers(wrong, args.databases, policy, output, plan)
                seconds = time.monotonic() - began
                made = {trace.id: trace for trace in load_traces(output)}
                n = json.loads(Path(f"{output}.stats.json").read_text())["rollouts"]
            found = {name: error_position(trace.labels) for name, trace in made.items()}
            decided = [t for t in wrong if found.get(t.id) is not None]
            same = sum(found[t.id] == t.first_error for t in decided)
            print(
                f"| {search} | {rollouts} | {n / len(made):.1f} | {len(decided) / len(made):.1%} "
                f"| {same / len(decided):.1%} | {n / seconds:,.0f} |"
            )


if __name__ == "__main__":
    main()
