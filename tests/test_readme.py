"""The READMEs: what they tell people to type is real, and both say the same."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prm.cli import _parser
from prm.recipe import read_recipe

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
#: First parts of paths that belong to the reader, are made by a command above, or name a model on the Hub.
THEIRS = ("data", "my", "their", "runs", "models", "Qwen", "RLHFlow", "HuggingFaceTB")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.M | re.S)


def commands(name):
    """Every command as its words: from the bash blocks, and from `code` that begins like a command."""
    lines = "".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", read(name), flags=re.M | re.S)
    spans = re.findall(r"`((?:prm|make|accelerate|pip|tensorboard) [^`]+)`", prose)
    # `prm build` alone names a verb; it is no command to type.
    spans = [span for span in spans if not re.fullmatch(r"prm \w+", span)]
    return [shlex.split(line, comments=True) for line in [*lines, *spans] if line.strip()]


def all_commands():
    return [command for name in (*READMES, "docs/results.md") for command in commands(name)]


def test_prm_commands_are_what_the_command_line_takes():
    seen = set()
    for words in all_commands():
        if words[0] == "prm":
            assert _parser().parse_args(words[1:]).run
            seen.add(words[1])
    labelling = {"build", "label", "rollout", "judge", "consensus", "convert", "inspect"}
    assert seen == labelling | {
        "decode",
        "evaluate",
        "export",
        "plan",
        "push",
        "rerank",
        "score",
        "serve",
        "train",
    }


def test_verbs_named_in_prose_exist():
    for name in READMES:
        verbs = set(re.findall(r"`prm (\w+)`", read(name)))
        assert verbs
        for verb in verbs:
            with pytest.raises(SystemExit) as end:
                _parser().parse_args([verb, "--help"])
            assert end.value.code == 0


def test_launch_lines_name_files_and_keys_that_exist():
    launches = [words for words in all_commands() if words[0] == "accelerate"]
    assert len(launches) >= 2
    for words in launches:
        assert words[1] == "launch" and (ROOT / words[words.index("--config_file") + 1]).is_file()
        recipe, *overrides = words[words.index("prm/train.py") + 1 :]
        model, data, args = read_recipe([str(ROOT / recipe), *overrides, "--use_cpu", "true"])
        assert model.model_name_or_path == "models/smollm2-135m"
        if "--test_data" in overrides:
            assert data.test_data == ["data/spider/test.jsonl"] and args.output_dir == "runs/spider"


def test_make_targets_exist():
    named = {word for command in all_commands() if command[0] == "make" for word in command[1:]}
    assert {"quickstart", "test", "model"} <= named
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets


def test_every_path_exists():
    missing = set()
    for name in READMES:
        text = read(name)
        paths = re.findall(r"\]\(([^)#]+)\)", text)
        words = [word for command in commands(name) for word in command]
        for code in re.findall(r"`([^`\n]+)`", text) + words:
            if re.fullmatch(r"[\w.-]+(/[\w.{},-]+)+/?", code) and not code.startswith(THEIRS):
                start, brace, rest = code.partition("{")
                middle, _, end = rest.partition("}")
                paths += [start + part + end for part in middle.split(",")] if brace else [code]
        assert len(paths) > 15
        missing |= {path for path in paths if not (ROOT / path).exists()}
    assert missing == set()


def test_extras_and_licence_are_those_of_the_package():
    configuration = read("setup.cfg")
    for name in READMES:
        extras = re.search(r"`pip install -e \.`[^`]*((?:`\w+`[^`\n]{0,3})+)", read(name)).group(1)
        for extra in re.findall(r"`(\w+)`", extras):
            assert re.search(rf"^{extra} =$", configuration, re.M)
    assert "license = Apache-2.0" in configuration and "Apache License" in read("LICENSE")


def test_metrics_are_those_of_the_code():
    from prm.evaluation.metrics import RATES, STEP_METRICS

    for name in READMES:
        table = next(t for t in re.findall(r"(?:^\|.*\n)+", read(name), re.M) if "`first_error_acc`" in t)
        keys = {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])}
        assert keys == {*RATES, *STEP_METRICS, "ci", "by", "baselines"}


def test_formats_are_those_of_the_code():
    from prm.traces.converters import FORMATS

    for name in READMES:
        table = next(t for t in re.findall(r"(?:^\|.*\n)+", read(name), re.M) if "`--from`" in t)
        assert set(re.findall(r"^\| `([a-z][\w-]+)`", table, re.M)) == set(FORMATS) - {"native"}


def test_data_example_is_a_trace():
    import json

    from prm.traces.trace import Trace

    for name in READMES:
        (example,) = blocks(name, "json")
        trace = Trace.from_dict(json.loads(example))
        assert trace.first_error == 1 and not trace.extra


def test_both_readmes_have_the_same_code_and_structure():
    english, chinese = READMES
    for language in ("bash", "python", "json"):
        assert blocks(english, language) == blocks(chinese, language) != []
    assert sorted(commands(english)) == sorted(commands(chinese))
    for pattern in (r"^(#+) ", r"^\| `([\w-]+)`", r"\]\((docs/[^)]+|LICENSE)\)", r"0\.\d{3}"):
        assert re.findall(pattern, read(english), re.M) == re.findall(pattern, read(chinese), re.M) != []
    assert f"]({chinese})" in read(english) and f"]({english})" in read(chinese)


def test_python_examples_run(make_model, tokenizer, tmp_path, capsys):
    make_model("llama", backbone="full", max_trace_length=2048).save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    corpus = subprocess.run(
        [sys.executable, str(ROOT / "examples/starter/make.py"), "--output", str(tmp_path / "corpus")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert corpus.returncode == 0, corpus.stderr

    def printed(code):
        assert len(code.splitlines()) <= 10 and "runs/quickstart/checkpoint" in code
        for path in ("checkpoint", "corpus"):
            code = code.replace(f"runs/quickstart/{path}", str(tmp_path / path))
        exec(compile(code, "README.md", "exec"), {})
        return capsys.readouterr().out.splitlines()

    scores, branches = blocks("README.md", "python")
    assert len([line for line in printed(scores) if re.match(r"[01]\.\d{3}  From ", line)]) == 2
    assert [len(re.findall(r"[01]\.\d+", line)) for line in printed(branches)] == [1, 2]


@pytest.mark.parametrize("name", [*READMES, "docs/results.md"])
def test_no_figure_is_left_open(name):
    assert not re.search(r"<!--|^[A-Z]{5,}$", read(name), re.M)
