"""A user's program, read by mypy alone (`make test`): what the public names promise to a type checker.

Each `type: ignore` stands on a mistake that a checker is to find: mypy complains of one that is not needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

from prm import Ensemble, PRMConfig, PRMTrainer, ProcessRewardModel, Scorer, Step, Trace, load_traces
from prm.evaluation import first_error_metrics
from prm.inference.branches import Branch
from prm.inference.policies import Policy
from prm.inference.search import Plan, Task, search
from prm.sql import decompose, open_database, read_schema, schema_text


def scores_in_ten_lines(database: Path, answer: str) -> list[float]:
    schema = assert_type(schema_text(read_schema(database)), str)
    steps = [Step(f"{step.text}\n{step.sql}") for step in decompose(answer)]
    trace = Trace("How many singers are there?", steps, schema=schema)
    scorer = assert_type(Scorer.from_pretrained("a/checkpoint", cache_bytes=1 << 30), Scorer)
    assert_type(scorer.score([trace]), list[list[float]])
    assert_type(trace.steps[0].label, float | int | None)
    Trace("How many singers are there?", answer)  # type: ignore[arg-type]  # not steps
    scorer.score(trace)  # type: ignore[call-overload]  # one trace, not a list of them
    return scorer.score([trace])[0]


def branches(scorer: Scorer, prompt: Trace) -> list[float]:
    branch = assert_type(scorer.start(prompt), Branch)
    assert_type(branch.extend("Count the rows."), float)
    return scorer.extend([(branch.fork(), "SELECT 1"), (branch, "SELECT 2")])


def searched(prm: Scorer | Ensemble, policy: Policy, prompts: Sequence[Trace]) -> list[str | None]:
    found = search([Task(prompt, "prompt") for prompt in prompts], policy, prm, Plan("beam"))
    search([], policy, prompts, Plan("beam"))  # type: ignore[arg-type]  # scores nothing
    return [one.candidates[0].sql for _, one in found]


def trained(file: str) -> ProcessRewardModel:
    model = ProcessRewardModel.from_backbone("a/backbone", backbone="lora")
    args = PRMConfig(output_dir="runs/mine", num_train_epochs=1)
    trainer = PRMTrainer(model=model, args=args, train_dataset=load_traces(file))
    trainer.train()
    trainer.save_model()
    PRMConfig(output_dir="runs/mine", epochs=1)  # type: ignore[call-arg]  # no such setting
    return ProcessRewardModel.from_pretrained("runs/mine/checkpoint")


def measured(traces: Sequence[Trace], scores: Sequence[Sequence[float]]) -> object:
    return first_error_metrics(scores, [trace.labels for trace in traces], threshold=0.5)["first_error_acc"]


def rows(database: Path) -> list[tuple[object, ...]]:
    with open_database(database, timeout=1.0) as opened:
        opened.execute(1)  # type: ignore[arg-type]  # not SQL
        return list(opened.execute("SELECT name FROM singer"))
