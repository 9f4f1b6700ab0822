"""A checkpoint to the Hub and back: the client as it is, against a Hub on this machine (`hub_server`)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from colour_traces import make_traces
from hub_server import Repo, environment, serving_hub, sha256

from prm import PRMConfig, PRMTrainer, ProcessRewardModel, Scorer
from prm.cli import main
from prm.errors import InputError
from prm.modeling.hub import merge, push_checkpoint
from prm.traces.formats import write_traces

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def hub():
    with serving_hub() as server:
        yield server


@pytest.fixture
def client(hub, tmp_path, monkeypatch):
    """The client of this process talks to the Hub of the test, as a user who may write."""
    from huggingface_hub import constants
    from transformers.utils import hub as transformers_hub

    monkeypatch.setattr(transformers_hub, "_hf_api", None)  # it remembers the endpoint that it began with
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    return hub


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    """`saved(backbone, name=…, **config)`: folder of a checkpoint with its tokenizer."""

    def make(backbone="full", name="checkpoint", **config):
        folder = tmp_path / name
        make_model(backbone=backbone, threshold=0.25, **config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def prm(*words, env, **options):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "prm.cli", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def contents(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
ADAPTER = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
HEAD = {"config.json", "head.safetensors", "README.md", ".gitattributes"} | TOKENIZER


@pytest.mark.parametrize(
    ("backbone", "words", "files"),
    [
        ("frozen", [], HEAD),
        ("lora", [], HEAD | ADAPTER),
        ("full", [], HEAD | {"model.safetensors"}),
        ("lora", ["--merge"], HEAD | {"model.safetensors"}),
        ("frozen", ["--merge"], HEAD | {"model.safetensors"}),
    ],
)
def test_what_goes_up_comes_down(client, saved, tmp_path, traces, tiny_model_dir, backbone, words, files):
    """Head only, adapter and head, or a whole model: exactly its files, and the same scores; the local
    folder stays as it is, and of this machine's folders nothing is told."""
    folder = saved(backbone)
    before = contents(folder)
    assert main(["push", "--model", str(folder), "--repo", "me/prm", *words]) == 0
    assert contents(folder) == before and os.listdir(tmp_path) != []
    assert not list(tmp_path.glob(".checkpoint.merged*"))
    pushed = client.repos["me/prm"].files()
    assert pushed.keys() == files | (pushed.keys() & {"chat_template.jinja", "special_tokens_map.json"})
    assert not any(str(path).encode() in data for data in pushed.values() for path in (tmp_path, Path.home()))
    assert not any(str(tiny_model_dir()).encode() in data for data in pushed.values())
    base = {} if "model.safetensors" in files else {"base_model_name_or_path": str(tiny_model_dir())}
    there = Scorer.from_pretrained("me/prm", device="cpu", **base).score(traces)
    here = Scorer.from_pretrained(folder, device="cpu").score(traces)
    near = 1e-5 if words else 0
    for mine, theirs in zip(here, there, strict=True):
        assert theirs == pytest.approx(mine, abs=near)


def test_without_its_local_base_it_says_what_to_give(client, saved):
    main(["push", "--model", str(saved("lora")), "--repo", "me/prm"])
    with pytest.raises(InputError, match=r"which base model it stands on.*--base-model"):
        Scorer.from_pretrained("me/prm", device="cpu")


def test_the_base_on_the_hub_is_pinned_while_pushing(client, saved, tiny_model_dir, traces):
    """A base that was a folder here and is on the Hub, too: the pushed checkpoint names it there."""
    base = client.repos["org/base"] = Repo(private=False)
    commit = base.commit("main", contents(tiny_model_dir()))
    folder = saved("lora")
    words = ["push", "--model", str(folder), "--repo", "me/prm", "--base-model", "org/base"]
    assert main(words) == 0
    base.commit("main", {"config.json": b"{}"})  # the branch moves on
    pushed = json.loads(client.repos["me/prm"].files()["config.json"])
    assert (pushed["base_model_name_or_path"], pushed["base_model_revision"]) == ("org/base", commit)
    adapter = json.loads(client.repos["me/prm"].files()["adapter/adapter_config.json"])
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/base", commit)
    card = client.repos["me/prm"].files()["README.md"].decode()
    assert "\nbase_model: org/base\n" in card and "\nbase_model_relation: adapter\n" in card
    assert f"Backbone: `org/base` at revision `{commit}`" in card
    model = ProcessRewardModel.from_pretrained("me/prm")
    assert model.config.base_model_revision == commit


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 1e-4), (8, 0.05)])
def test_a_merged_quantised_adapter_scores_as_before(saved, tmp_path, traces, bits, tolerance):
    """Merged into what the quantised weights stand for, and loaded without bitsandbytes having a part in it.
    (8-bit layers round their inputs, too, which dense ones do not.)"""
    folder = saved("qlora", quantization_bits=bits)
    (folder / "training.json").write_text('{"name": "run"}')
    merge(folder, tmp_path / "whole")
    whole = Scorer.from_pretrained(tmp_path / "whole", device="cpu")
    assert (
        whole.model.config.backbone == "full" and "quantization_config" not in whole.model.config.base_config
    )
    for a, b in zip(whole.score(traces), Scorer.from_pretrained(folder).score(traces), strict=True):
        assert a == pytest.approx(b, abs=tolerance)
    assert json.loads((tmp_path / "whole/training.json").read_text())["merged_from"] == "qlora"


def test_a_push_killed_half_way_goes_on(client, saved, tmp_path, traces, tiny_model_dir):
    """SIGKILL while the second of two weight files is under way: nothing is visible but an empty repository;
    the same command sends the second file again and not the first, and makes the one commit, which gives the
    scores of the folder."""
    hub = client
    folder = saved("lora", lora={"r": 16})
    head = sha256((folder / "head.safetensors").read_bytes())
    adapter = sha256((folder / "adapter/adapter_model.safetensors").read_bytes())
    env = environment(hub, tmp_path / "hf")
    words = ("push", "--model", folder, "--repo", "me/prm", "--private")
    size = (folder / "adapter/adapter_model.safetensors").stat().st_size
    hub.hold = lambda oid, received: oid == adapter and received > size // 2
    killed = prm(*words, env=env)
    assert hub.held.wait(120), killed.communicate()
    waits = 0
    while head not in hub.lfs and (waits := waits + 1) < 3000:
        time.sleep(0.02)  # it is sent beside the other one
    assert head in hub.lfs and adapter not in hub.lfs
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert hub.repos["me/prm"].files().keys() == {".gitattributes"}

    hub.hold = lambda oid, received: False
    again = prm(*words, env=env)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert out == f"pushed to    {hub.url}/me/prm\n"
    assert dict(hub.sent) == {head: 1, adapter: 2}
    assert hub.commits_made() == 1
    assert hub.repos["me/prm"].files().keys() >= HEAD | ADAPTER
    assert hub.repos["me/prm"].private
    there = Scorer.from_pretrained("me/prm", base_model_name_or_path=str(tiny_model_dir()), device="cpu")
    assert there.score(traces) == Scorer.from_pretrained(folder, device="cpu").score(traces)


THERE_AND_BACK = """
import sys
from prm.train import main
from prm import Scorer
from prm.traces.formats import load_traces

recipe, folder, data = sys.argv[1:]
main([recipe])
traces = load_traces(data)
local, remote = Scorer.from_pretrained(folder, device="cpu"), Scorer.from_pretrained("me/prm", device="cpu")
assert local.score(traces) == remote.score(traces)
print("the same scores")
"""


@pytest.mark.slow
def test_a_recipe_with_push_to_hub(hub, tmp_path, tiny_model_dir):
    """An adapter on a base of the Hub, trained, pushed to a private repository, loaded and measured by its
    name, with the base as it was: of the commit that the training saw."""
    base = hub.repos["org/base"] = Repo(private=False)
    commit = base.commit("main", contents(tiny_model_dir()))
    data = tmp_path / "data.jsonl"
    write_traces(make_traces(3), data)
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: org/base\nbackbone: lora\ntrain_data: {data}\neval_data: {data}\n"
        "allow_overlap: true\n"
        f"output_dir: {run}\nmax_steps: 2\nsave_steps: 1\npush_to_hub: true\nhub_model_id: me/prm\n"
        "hub_private_repo: true\nhub_token: hf_right\nreport_to: none\nuse_cpu: true\n"
    )
    env = environment(hub, tmp_path / "hf")
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, str(recipe), str(run / "checkpoint"), str(data)],
        env=os.environ | env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"pushed to    {hub.url}/me/prm" in done.stdout and "the same scores" in done.stdout

    folder, repo = run / "checkpoint", hub.repos["me/prm"]
    pushed = repo.files()
    assert pushed.keys() >= HEAD | ADAPTER | {"trainer_state.json", "training.json", "metrics.json"}
    same = pushed.keys() - {"README.md", "config.json", "adapter/adapter_config.json", ".gitattributes"}
    assert {name: pushed[name] for name in same} == {name: (folder / name).read_bytes() for name in same}
    assert json.loads(pushed["config.json"]) == json.loads((folder / "config.json").read_text())
    assert json.loads(pushed["config.json"])["base_model_revision"] == commit
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert pushed["README.md"].decode() == card.replace("this/repository", "me/prm")
    assert repo.private and hub.commits_made() == 1
    assert not any(b"hf_right" in text or str(tmp_path).encode() in text for text in pushed.values())

    base.commit("main", {"config.json": b"{}"})  # the branch moves on; the pinned commit stays
    words = ("evaluate", "--model", "me/prm", "--data", data, "--output", tmp_path / "eval")
    process = prm(*words, env=env | {"HF_HOME": str(tmp_path / "new")})
    _, err = process.communicate()
    assert process.returncode == 0, err
    measured = json.loads((tmp_path / "eval/metrics.json").read_text())
    kept = json.loads((folder / "metrics.json").read_text())
    for rate in ("first_error_acc", "f1", "step_auc", "threshold", "ci", "baselines"):
        assert measured[rate] == kept[rate]
    asked = [path for _, path, _ in hub.requests if path.startswith("/org/base/resolve/")]
    assert asked and f"/org/base/resolve/{commit}/model.safetensors" in asked


def test_from_python(client, tmp_path, tiny_model_dir):
    """With `push_to_hub=True` nothing is pushed while training, and the finished folder at the end."""
    args = PRMConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True, max_steps=2, save_steps=1,
        push_to_hub=True, hub_model_id="me/prm", hub_token="hf_right",
    )  # fmt: skip
    trainer = PRMTrainer(str(tiny_model_dir()), args, train_dataset=make_traces(2))
    trainer.train()
    assert not client.requests
    assert trainer.push_to_hub() == f"{client.url}/me/prm"
    pushed = client.repos["me/prm"].files()
    assert pushed.keys() >= HEAD | {"model.safetensors"}
    assert not any("checkpoint" in name or name.endswith(".pt") for name in pushed)
    assert "Called from Python, with these settings" in pushed["README.md"].decode()


def test_branches_and_what_an_earlier_push_left(client, saved):
    """A push to a branch leaves the others alone; a whole model after an adapter leaves no adapter behind,
    and what somebody else has put there stays."""
    repo = client.repos["me/prm"] = Repo(private=False)
    repo.commit("main", {"notes.md": b"mine"})
    adapter, whole = saved("lora"), saved("full", "whole")
    assert main(["push", "--model", str(adapter), "--repo", "me/prm", "--revision", "v2"]) == 0
    assert repo.files("main").keys() == {"notes.md"}
    assert repo.files("v2").keys() >= ADAPTER | {"notes.md"}
    assert main(["push", "--model", str(whole), "--repo", "me/prm", "--revision", "v2"]) == 0
    assert repo.files("v2").keys() >= {"model.safetensors", "notes.md"}
    assert not repo.files("v2").keys() & ADAPTER
    assert ProcessRewardModel.from_pretrained("me/prm", revision="v2").config.threshold == 0.25
    with pytest.raises(InputError, match="404: it has no such revision"):
        ProcessRewardModel.from_pretrained("me/prm", revision="v3")


def test_a_card_written_by_hand_is_kept(client, saved):
    folder = saved()
    (folder / "README.md").write_text("Mine, of this/repository.\n")
    assert main(["push", "--model", str(folder), "--repo", "me/prm"]) == 0
    assert client.repos["me/prm"].files()["README.md"] == b"Mine, of me/prm.\n"


def test_a_broken_card_stops_the_push_before_anything_is_sent(client, saved, capsys):
    folder = saved()
    (folder / "README.md").write_text("---\nbase_model: /home/me/model\n---\n")
    assert main(["push", "--model", str(folder), "--repo", "me/prm"]) == 2
    assert '"base_model" with value "/home/me/model" is not valid' in capsys.readouterr().err
    assert not client.sent and client.repos["me/prm"].files().keys() == {".gitattributes"}


@pytest.mark.parametrize(
    ("where", "token", "name", "reason"),
    [
        ("the hub", "hf_wrong", "me/prm", "401: .*not accepted"),
        ("the hub", None, "me/prm", "401: no token was given"),
        ("the hub", "hf_reader", "me/prm", "403: the token may not do this"),
        ("the hub", "hf_right", "you/prm", "403: .*namespace you"),
        ("the hub", "hf_right", "me/a name/x", "[Rr]epo id"),
        ("nowhere", "hf_right", "me/prm", "127.0.0.1:9 cannot be reached"),
    ],
)
def test_errors_are_one_line(client, saved, monkeypatch, capsys, where, token, name, reason):
    """They say that the checkpoint is safe, where, what was wrong and what to do."""
    if where == "nowhere":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN")
    checkpoint = saved()
    before = contents(checkpoint)
    with pytest.raises(InputError) as error:
        push_checkpoint(checkpoint, name, token=token)
    message = str(error.value)
    assert message.startswith(f"the checkpoint is in {checkpoint}, but pushing it to {name} failed: ")
    assert re.search(reason, message) and "\n" not in message and "hf auth login" in message
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    capsys.readouterr()
    assert main(["push", "--model", str(checkpoint), "--repo", name]) == 2
    assert re.fullmatch(f"prm: the checkpoint is in .*{reason}.*\n", capsys.readouterr().err)
    assert contents(checkpoint) == before and not client.sent


@pytest.mark.parametrize(
    ("token", "name", "offline", "reason"),
    [
        (None, "me/prm", False, "401: there is no such repository, or it is private and no token was given"),
        ("hf_other", "me/prm", False, "404: there is no such repository, or it is private"),
        ("hf_right", "me/other", False, "404: there is no such repository"),
        ("hf_wrong", "me/prm", False, "401: "),
        ("hf_right", "me/prm", True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    client, saved, monkeypatch, capsys, tmp_path, token, name, offline, reason
):
    assert main(["push", "--model", str(saved()), "--repo", "me/prm", "--private"]) == 0
    capsys.readouterr()
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    write_traces(make_traces(1), tmp_path / "data.jsonl")
    words = [
        "score",
        "--model",
        name,
        "--data",
        str(tmp_path / "data.jsonl"),
        "--output",
        str(tmp_path / "x"),
    ]
    assert main(words) == 2
    assert re.fullmatch(f"prm: {name}: no such folder, and the Hub does not give it .*{reason}.*\n",
                        capsys.readouterr().err)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("none", "no such checkpoint folder"),
        ("run", "is no PRM checkpoint: name .*run/checkpoint"),
        ("run/checkpoint", "adapter_model.safetensors is missing"),
        ("untokenized", "tokenizer_config.json is missing"),
    ],
)
def test_what_is_no_whole_checkpoint_is_not_pushed(client, saved, tmp_path, capsys, name, mend):
    inside = saved("lora", "run/checkpoint")
    (inside / "adapter/adapter_model.safetensors").unlink()
    (saved("frozen", "untokenized") / "tokenizer_config.json").unlink()
    assert main(["push", "--model", str(tmp_path / name), "--repo", "me/prm"]) == 2
    assert re.search(mend, capsys.readouterr().err)
    assert not client.requests


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_no_pickle_goes_up_and_none_is_read(client, saved, tmp_path, tiny_model_dir, capsys):
    """The optimizer of a training folder stays; a checkpoint or a base whose weights are a pickle is refused,
    here and on the Hub."""
    import pickle

    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    whole = saved()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "complete.json"):
        (whole / name).write_bytes(trap)
    assert main(["push", "--model", str(whole), "--repo", "me/prm"]) == 0
    pushed = client.repos["me/prm"].files()
    assert pushed.keys() == HEAD | {"model.safetensors"} | (pushed.keys() & {"special_tokens_map.json"})

    (whole / "model.safetensors").unlink()
    (whole / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        ProcessRewardModel.from_pretrained(whole)
    assert main(["push", "--model", str(whole), "--repo", "me/pickled"]) == 2
    assert "model.safetensors is missing" in capsys.readouterr().err
    client.repos["me/pickled"] = Repo(private=False)
    client.repos["me/pickled"].commit("main", contents(whole))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        ProcessRewardModel.from_pretrained("me/pickled")
    client.repos["org/base"] = Repo(private=False)
    files = contents(tiny_model_dir())
    del files["model.safetensors"]
    client.repos["org/base"].commit("main", files | {"pytorch_model.bin": trap})
    with pytest.raises(InputError, match=r"org/base: .*weights in pickles .* are not read"):
        ProcessRewardModel.from_backbone("org/base", backbone="frozen")
    assert not any("GET" in method and path.endswith(".bin") for method, path, _ in client.requests)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_code_in_a_repository_is_not_run(client, saved, tmp_path, tiny_model_dir):
    """Neither that of the checkpoint, which has none, nor that of its base, unless asked for."""
    code = f"import os\nos.mkdir({str(tmp_path / 'run')!r})\n"
    base = client.repos["org/base"] = Repo(private=False)
    files = contents(tiny_model_dir())
    config = json.loads(files["config.json"]) | {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "strange.Config", "AutoModel": "strange.Model"},
    }
    files |= {"config.json": json.dumps(config).encode(), "strange.py": code.encode()}
    base.commit("main", files)
    folder = saved("lora")
    assert main(["push", "--model", str(folder), "--repo", "me/prm", "--base-model", "org/base"]) == 0
    with pytest.raises(InputError, match="pass trust_remote_code only if you trust it"):
        Scorer.from_pretrained("me/prm", device="cpu")
    assert not (tmp_path / "run").exists()


def test_answers_by_guided_decoding(client, tmp_path):
    """What `prm decode` has written, as a data set that `datasets` reads, with a card."""
    import datasets

    from prm.decode import card, push

    step = {"text": "SELECT 1", "sql": "SELECT 1"}
    rows = [
        {"question": "q", "candidates": [{"steps": [step], "scores": [0.5], "sql": "SELECT 1"}], "chosen": 0},
        {"question": "r", "candidates": [{"steps": [step], "scores": [0.5], "finished": False}], "chosen": 0},
    ]
    output = tmp_path / "out.jsonl"
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    statistics = {
        "method": "beam", "policy": "m", "prm": "p", "answered": 2, "command": "prm decode --n 2",
        "version": "1", "tokens_a_question": 9.5, "prm_calls_a_question": 3.0, "accuracy": 0.5, "judged": 4,
        "accuracy_at": {"naive": {"1": 0.25, "2": 0.5}, "majority": {"1": 0.25, "2": 0.75}},
    }  # fmt: skip
    Path(f"{output}.stats.json").write_text(json.dumps(statistics))
    Path(f"{output}.md").write_text(card(statistics, output))
    assert push("me/answers", output, private=True).endswith("me/answers")
    there = client.repos["datasets/me/answers"].files()
    assert {"README.md", "out.jsonl", "out.jsonl.stats.json"} <= set(there)
    assert there["out.jsonl"] == output.read_bytes()
    told = there["README.md"].decode()
    assert told.startswith("---\n") and 'data_files: "out.jsonl"' in told.split("---")[1]
    assert "`prm decode --n 2`" in told and "| 2 | 0.500 | 0.750 |" in told
    data = datasets.load_dataset("json", data_files=str(output), split="train", cache_dir=str(tmp_path / "c"))
    assert data[0]["candidates"][0]["steps"][0]["text"] == "SELECT 1" and len(data) == 2


def test_traces_with_their_data_card(client, tmp_path, capsys):
    """`prm push --data`: the file, its statistics, and the card as README.md of a data set repository."""
    file = tmp_path / "traces.jsonl"
    write_traces(make_traces(2), file)
    words = ["push", "--data", str(file), "--repo", "me/traces", "--private"]
    assert main(words) == 2
    assert "has no data card traces.jsonl.md" in capsys.readouterr().err
    card = "---\nconfigs:\n- config_name: default\n  data_files: traces.jsonl\n---\n# Traces\n"
    (tmp_path / "traces.jsonl.md").write_text(card)
    (tmp_path / "traces.jsonl.stats.json").write_text("{}")
    assert main(words) == 0
    assert capsys.readouterr().out == f"pushed to    {client.url}/datasets/me/traces\n"
    repo = client.repos["datasets/me/traces"]
    assert repo.private and repo.files() == {
        ".gitattributes": repo.files()[".gitattributes"],
        "README.md": card.encode(),
        "traces.jsonl": file.read_bytes(),
        "traces.jsonl.stats.json": b"{}",
    }
    assert main([*words, "--merge"]) == 2
    assert main(["push", "--repo", "me/x"]) == 2
