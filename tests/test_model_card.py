"""The model card: the whole of one against an expected text, and the Hub's validation of its metadata."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hub_server import metadata_errors, serving_hub

from prm.modeling.card import describe_traces, keep_metrics, keep_training, render_card, write_card
from prm.recipe import given_values
from prm.traces.trace import Step, Trace


def labelled(question, labels, source, db_id="pets"):
    steps = [Step(f"Step {k}.", label) for k, label in enumerate(labels)]
    return Trace(question, steps, db_id=db_id, label_source=source)


TRAIN = [
    labelled("How many pets?", [1, 1], "execution"),
    labelled("How many pets?", [1, 0], "execution"),
    labelled("How many dogs?", [0, None], "variant:3:1:ab12"),
    labelled("How many cats?", [1, 0.5], None, "cats"),
]
DEV = [labelled("How old is it?", [1, 0, 0], "monte-carlo"), labelled("How old is it?", [1], "monte-carlo")]

METRICS = {
    "model": "/home/me/runs/pets/checkpoint", "n_traces": 12, "n_erroneous": 5, "n_steps": 40,
    "threshold": 0.25, "threshold_from": "best f1 on the dev split (2 traces)", "rule": "threshold",
    "first_error_acc": 0.5, "f1": 0.4, "error_acc": 0.25, "correct_acc": 1.0, "step_auc": 0.75,
    "false_early_rate": 0.0, "late_rate": 0.625, "miss_rate": 0.125, "ece": None,
    "ci": {"first_error_acc": [0.25, 0.625], "f1": None},
    "baselines": {
        "never_flag": {"first_error_acc": 0.583, "f1": 0.0, "step_auc": None},
        "flag_first": {"first_error_acc": 0.25, "f1": 0.0, "step_auc": None},
        "position_only": {"first_error_acc": 0.333, "f1": 0.3, "step_auc": 0.7},
    },
    "by": {"database": {"secret": {}}},
}  # fmt: skip

RECIPE = """\
model_name_or_path: org/base
backbone: lora
train_data: [org/pets:train, /home/me/data/more.jsonl]
eval_data: dev.jsonl
learning_rate: 1e-4
load_best_model_at_end: no
output_dir: /home/me/runs/pets
max_steps: 4
hub_token: hf_secret
"""


@pytest.fixture
def checkpoint(tmp_path, make_model):
    """Of a LoRA run on a base of the Hub, measured on its dev split."""
    folder = tmp_path / "checkpoint"
    model = make_model(
        backbone="lora",
        threshold=0.25,
        threshold_from="best f1 on the dev split (2 traces)",
        backbone_layers=2,
    )
    model.config.base_model_name_or_path, model.config.base_model_revision = "org/base", "a" * 40
    model.config.score_temperature = 1.5
    model.save_pretrained(folder)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    keep_training(
        folder,
        name="pets",
        data={"train_data": describe_traces(TRAIN), "eval_data": describe_traces(DEV)},
        recipe=given_values([str(tmp_path / "recipe.yaml"), "--max_steps", "8", "--seed=3", "--bf16"]),
        settings={"seed": 3, "learning parameters": 1234, "traces of a step": 16, "training data": "ab12"},
        hardware="2 processes, cpu",
    )
    state = {"global_step": 8, "epoch": 2.0, "best_global_step": 6, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


METADATA = """\
base_model: org/base
datasets:
- org/pets
library_name: nl2sql-prm
pipeline_tag: token-classification
tags:
- process-reward-model
- reward-model
- text-to-sql
- lora
base_model_relation: adapter
model-index:
- name: pets
  results:
  - task:
      type: token-classification
      name: First error in the steps of a text-to-SQL answer
    dataset:
      name: the dev split (dev.jsonl)
      type: dev.jsonl
      split: dev
    metrics:
    - type: first_error_acc
      value: 0.5
      name: first_error_acc (first error found, or absence confirmed)
    - type: f1
      value: 0.4
      name: f1 (harmonic mean of the next two)
    - type: error_acc
      value: 0.25
      name: 'error_acc (of erroneous traces: first error found)'
    - type: correct_acc
      value: 1.0
      name: 'correct_acc (of clean traces: none flagged)'
    - type: false_early_rate
      value: 0.0
      name: 'false_early_rate (of erroneous traces: flagged too early)'
    - type: late_rate
      value: 0.625
      name: 'late_rate (of erroneous traces: flagged too late)'
    - type: miss_rate
      value: 0.125
      name: 'miss_rate (of erroneous traces: not flagged)'
    - type: step_auc
      value: 0.75
      name: step_auc (a right step scores above a wrong one)
"""

TEXT = r"""# pets: a process reward model for text-to-SQL

It reads a database schema, a question and the reasoning steps of an answer, and gives each step a score in
[0, 1]: the probability that no error has happened up to and including this step. The first step whose score
is below the threshold is where the answer is taken to have gone wrong.

## Intended use

Choosing among candidate queries, stopping a wrong chain of thought before it is finished, rewards in
reinforcement learning, and finding out at which kind of step a text-to-SQL model fails.

A high score is no proof that a query is right, and says nothing about whether it is safe to run. Scores of
answers whose steps look unlike those of the data below, or in another language, may mean little.

## How to load

With nl2sql-prm installed:

```bash
prm evaluate --model this/repository --data traces.jsonl --output eval
```

```python
from prm import Scorer, Step, Trace

scorer = Scorer.from_pretrained("this/repository")
schema = "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"
steps = [Step("Count the rows of singer.\nSELECT COUNT(*) FROM singer")]
scores = scorer.score([Trace("How many singers are there?", steps, schema=schema)])[0]
```

This repository holds the head and a LoRA adapter; the backbone is loaded from its own repository. Backbone:
`org/base` at revision `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa`, its first 2 layers. All weights are
safetensors; no code comes with them, and none is run.

## Data

| split | from | traces | with an error | questions | databases | steps labelled |
| --- | --- | --- | --- | --- | --- | --- |
| training | org/pets, more.jsonl | 4 | 2 | 3 | 2 | 7 of 8 |
| dev | dev.jsonl | 2 | 1 | 1 | 1 | 4 of 4 |

How the labels came to be:

| label_source | training traces | dev traces | meaning |
| --- | --- | --- | --- |
| execution | 2 | 0 | by running the SQL on the database: an answer is wrong where its result differs from
gold's, right where it equals it there and (SQLite) on variants with other rows |
| monte-carlo | 0 | 2 | by a policy that went on from every prefix; the last label by running the answer |
| not given | 1 | 0 | the data does not say |
| variant | 1 | 0 | by running the SQL on the variant that the trace names: on the database itself its result
happens to be gold's, and is not right |

## Metrics

On the dev split (dev.jsonl): 12 labelled traces, 5 of them with an error, 40 labelled steps; at threshold
0.250 (best f1 on the dev split (2 traces)).

| metric | value | 95 % interval | never_flag | flag_first | position_only | meaning |
| --- | --- | --- | --- | --- | --- | --- |
| `first_error_acc` | 0.500 | 0.250 – 0.625 | 0.583 | 0.250 | 0.333 | first error found, or absence
confirmed |
| `f1` | 0.400 | – | 0.000 | 0.000 | 0.300 | harmonic mean of the next two |
| `error_acc` | 0.250 | – | – | – | – | of erroneous traces: first error found |
| `correct_acc` | 1.000 | – | – | – | – | of clean traces: none flagged |
| `false_early_rate` | 0.000 | – | – | – | – | of erroneous traces: flagged too early |
| `late_rate` | 0.625 | – | – | – | – | of erroneous traces: flagged too late |
| `miss_rate` | 0.125 | – | – | – | – | of erroneous traces: not flagged |
| `step_auc` | 0.750 | – | – | – | 0.700 | a right step scores above a wrong one |
| `ece` | – | – | – | – | – | calibration error, ten bins |

The intervals are bootstrapped over questions. The baselines know nothing of the answers: `never_flag` and
`flag_first` say the same of every trace, `position_only` scores a step by its index alone.

## Threshold

0.250, chosen so: best f1 on the dev split (2 traces); the logits are divided by 1.500 before they become
scores. Choose another on data of your own with `prm evaluate --threshold-data`; a lower one flags fewer
steps.

## Training

- loss `bce`: binary cross entropy on the label of every labelled step
- 8 optimiser steps, 2.00 epochs; the best by the dev split was after step 6
- 1,234 parameters learned, 16 traces a step
- traces of at most 2,048 tokens, prompts of version 1, steps ended by "\n"
- on 2 processes, cpu

The recipe, as it was given (of absolute paths the last name):

```yaml
model_name_or_path: org/base
backbone: lora
train_data:
- org/pets:train
- more.jsonl
eval_data: dev.jsonl
learning_rate: 1e-4
load_best_model_at_end: no
output_dir: pets
max_steps: 8
seed: 3
bf16: true
```

## What was not measured

- The figures above are of the dev split, on which the threshold (and with it the best checkpoint) was chosen,
so they flatter; there was no test split.
- By `first_error_acc` it is no better on the dev split (dev.jsonl) than `never_flag` (0.583).
- One training run was measured; how much another seed would change is not in the intervals.
- Nothing was measured on schemas, SQL dialects and languages that the data above does not have, nor on
answers of other models than those the data comes from.
- What it does for a text-to-SQL model, by reranking, guided decoding or as a reward, was not measured by this
training.
- Whether it can be fooled by answers that are written to please it was not measured.
- The labels are as good as their source (see above); no person checked them for this training.
- Energy use was not measured.

## Versions

nl2sql-prm VERSION, Python VERSION, torch VERSION, transformers VERSION, peft VERSION, accelerate VERSION,
datasets VERSION, huggingface_hub VERSION. The licences of the base model and of the data apply.
"""


def unwrapped(text):
    """Lines that were broken for this file are one again."""
    return re.sub(r"(?<=[\w,.;:\]`)])\n(?=[\w\[(`])(?!- )", " ", text)


def test_the_whole_card(checkpoint):
    keep_metrics(checkpoint, METRICS, split="eval_data")
    write_card(checkpoint)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    found = re.fullmatch(r"---\n(.*?)---\n\n(.*)", card, re.S)
    assert found[1] == METADATA
    text = re.sub(r"(?<=[a-zA-Z_] )\d+\.\d+\.\d+(\+\w+)?(?=[,.])", "VERSION", found[2])
    assert unwrapped(text).splitlines() == unwrapped(TEXT).splitlines()
    write_card(checkpoint)
    assert (checkpoint / "README.md").read_text(encoding="utf-8") == card


def test_of_this_machine_and_its_user_the_card_tells_nothing(checkpoint):
    keep_metrics(checkpoint, METRICS, split="eval_data")
    write_card(checkpoint)
    for name in ("README.md", "training.json", "metrics.json"):
        text = (checkpoint / name).read_text(encoding="utf-8")
        assert "/home" not in text and "hf_secret" not in text and "secret" not in text


@pytest.fixture
def endpoint(monkeypatch):
    with serving_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


def test_the_metadata_is_what_the_hub_takes(checkpoint, endpoint):
    """By the client's own validation, which asks the Hub, and read back by it."""
    from huggingface_hub import ModelCard

    keep_metrics(checkpoint, METRICS, split="eval_data")
    write_card(checkpoint)
    card = ModelCard.load(checkpoint / "README.md")
    card.validate()
    assert ("POST", "/api/validate-yaml") in [request[:2] for request in endpoint.requests]
    assert card.data.base_model == "org/base" and card.data.datasets == ["org/pets"]
    assert [result.metric_type for result in card.data.eval_results][:2] == ["first_error_acc", "f1"]
    assert {result.dataset_split for result in card.data.eval_results} == {"dev"}
    broken = ModelCard("---\nbase_model: /home/me/model\n---\n")
    with pytest.raises(ValueError, match="base_model"):
        broken.validate()


@pytest.mark.parametrize(
    "name", ["a b|c.jsonl", "новые данные.jsonl", "x`y\n---\n.jsonl", "…", "- : #.jsonl", "/tmp/a/"]
)
def test_any_file_name_gives_a_valid_card(checkpoint, name, endpoint):
    from huggingface_hub import ModelCard

    training = json.loads((checkpoint / "training.json").read_text())
    training["recipe"]["eval_data"] = [name]
    (checkpoint / "training.json").write_text(json.dumps(training))
    keep_metrics(checkpoint, METRICS, split="eval_data")
    card = render_card(checkpoint)
    assert metadata_errors(card, "model") == []
    ModelCard(card).validate()
    table = re.search(r"^\| split .*?\n\n", card, re.S | re.M)[0]
    rows = [line for line in table.splitlines() if line]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}


def test_a_checkpoint_that_keeps_nothing_owns_up(tmp_path, make_model, tiny_model_dir):
    """No run's files: no figures are made up. A base that is a folder is named by its last name."""
    make_model(backbone="frozen").save_pretrained(tmp_path)
    card = render_card(tmp_path)
    assert "This checkpoint was not measured." in card
    assert "The checkpoint does not say what it was trained on." in card
    assert "model-index" not in card and "base_model:" not in card
    assert f"Backbone: `{tiny_model_dir().name}`. That was a folder on the machine of the training" in card
    assert 'from_pretrained("this/repository", base_model_name_or_path="FOLDER or Hub id")' in card
    assert str(tiny_model_dir()) not in card
    assert metadata_errors(card, "model") == []


def test_measured_later_on_other_data(checkpoint):
    """`prm push --metrics`: a table and an entry of the model-index for each file of `prm evaluate`."""
    given = [
        {key: v for key, v in METRICS.items() if key != "model"} | {"data": [f"/data/{name}.jsonl"]}
        for name in ("bird", "spider")
    ]
    given[1] |= {"rule": "most-likely", "first_error_acc": 0.9}
    card = render_card(checkpoint, metrics=given, repo_id="me/prm")
    assert "On bird.jsonl: 12 labelled traces" in card and "On spider.jsonl: 12 labelled" in card
    assert "by the rule `most-likely`, without a threshold" in card
    assert "By `first_error_acc` it is no better on bird.jsonl than" in card
    assert "no better on spider.jsonl" not in card and "flatter" not in card
    index = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert [result["dataset"]["type"] for result in index[0]["results"]] == ["bird.jsonl", "spider.jsonl"]
    assert index[0]["name"] == "prm" and "/data" not in card
