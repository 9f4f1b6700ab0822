"""`docs/migrating.md`: every file, command and script in it does what the text says, with a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from prm.cli import main
from prm.traces.formats import load_traces

TEXT = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", TEXT, flags=re.M)[1:]}
MODELS = r"(Qwen/Qwen2-0\.5B|Qwen/Qwen2\.5-3B|mistralai/Mistral-7B-v0\.1)"


def blocks(section, language):
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.M | re.S)


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_model_dir):
    """A folder with every file that the text names, the models in it replaced by a tiny one, as the working
    directory; gives the tiny model's folder.
    """
    tiny = str(tiny_model_dir("qwen2", max_position_embeddings=8192))
    for name, language, content in re.findall(r"`([\w/.]+)`:\n\n```(\w+)\n(.*?)```", TEXT, re.S):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        if language == "yaml":
            content = re.sub(MODELS, tiny, content)
        file.write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tiny


def run(section):
    for line in "".join(blocks(section, "bash")).splitlines():
        words = shlex.split(line)
        assert words[0] == "prm"
        # On this machine and in this time; that the recipe itself is accepted is what the words before say.
        brief = ["--use_cpu", "true", "--max_steps", "1"] if words[1] == "train" else []
        assert main([*words[1:], *brief]) == 0, line


def test_a_trl_script_changes_its_import_lines_and_nothing_else(desk):
    theirs, ours = blocks("TRL's PRMTrainer", "python")
    changed = [(a, b) for a, b in zip(theirs.splitlines(), ours.splitlines(), strict=True) if a != b]
    assert changed == [
        (f"from trl import {name}", f"from prm import {name}") for name in ("PRMConfig", "PRMTrainer")
    ]
    script = re.sub(MODELS, desk, ours).replace("num_train_epochs=1)", "num_train_epochs=1, use_cpu=True)")
    exec(compile(script, "migrating.md", "exec"), {})
    from prm import ProcessRewardModel

    model = ProcessRewardModel.from_pretrained("runs/from-trl/checkpoint")
    assert model.config.backbone == "full" and model.config.max_trace_length == 512


def test_an_axolotl_config_becomes_a_recipe_that_trains(desk):
    theirs, ours = (yaml.safe_load(block) for block in blocks("axolotl", "yaml"))
    named = set(re.findall(r"`([\w]+)(?:: \w+)?`", re.sub(r"datasets\[\]\.", "", SECTIONS["axolotl"])))
    keys = {*theirs, *theirs["datasets"][0]} - {"datasets"}
    # What the table does not name has the same name on both sides.
    assert {key for key in keys - named if ours.get(key) != theirs.get(key)} == set()
    assert theirs["output_dir"] == ours["output_dir"] and ours["max_length"] == theirs["sequence_len"]
    assert float(ours["learning_rate"]) == float(theirs["learning_rate"])
    run("axolotl")
    config = json.loads(Path("runs/from-axolotl/checkpoint/config.json").read_text())
    assert config["backbone"] == "lora" and config["max_completion_length"] == 512


def test_openrlhf_data_is_converted_and_trained_on_and_rewardsql_asks_for_scores(desk, capsys):
    run("OpenRLHF's train_prm")
    (trace,) = load_traces("my/from_openrlhf.jsonl")
    assert trace.question == "How many singers are older than 30?"
    assert [(step.text, step.label) for step in trace.steps] == [
        ("Step 1: Keep the singers whose age is above 30.", 1),
        ("Step 2: Count the names of all.", 0),
    ]
    run("RewardSQL")
    (trace,) = load_traces("my/rewardsql.jsonl")
    assert [step.text for step in trace.steps] == [
        "WITH older AS (SELECT * FROM singer WHERE age > 30),", "SELECT MAX(age) FROM older;",
    ]  # fmt: skip
    assert trace.labels == [1, 0] and trace.extra["prompt"] == trace.extra["instruction"]
    capsys.readouterr()
    (script,) = blocks("RewardSQL", "python")
    exec(compile(script, "migrating.md", "exec"), {})
    scores = json.loads(capsys.readouterr().out)
    assert len(scores) == 2 and all(0 < score < 1 for score in scores)


def test_verdicts_become_the_trace_that_the_text_shows(desk):
    run("Verdicts as JSON")
    _, shown = blocks("Verdicts as JSON", "json")
    assert json.loads(Path("my/verdicts.jsonl").read_text()) == json.loads(shown)


def test_every_section_is_tested():
    assert list(SECTIONS) == [
        "TRL's PRMTrainer", "axolotl", "OpenRLHF's train_prm", "RewardSQL", "Verdicts as JSON"
    ]  # fmt: skip
