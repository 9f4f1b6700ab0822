"""The model card, and a checkpoint on the Hub: the client as it is, against a small server that speaks its
protocol on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from colour_traces import make_traces

from prm import PRMConfig, PRMTrainer
from prm.errors import InputError
from prm.modeling.hub import push_checkpoint, write_card
from prm.traces.formats import write_traces

REPO = Path(__file__).resolve().parent.parent


class HubHandler(BaseHTTPRequestHandler):
    """Repositories, branches, commits (small files inside, safetensors as LFS objects), listing, downloading.

    `server.repos[id][revision]` maps paths to bytes.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, body=b"", status=200, **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        repos, path = self.server.repos, unquote(urlsplit(self.path).path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, path))
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            wish = json.loads(data)
            name = "/".join(filter(None, [wish.get("organization"), wish["name"]]))
            self.server.private[name] = wish.get("private") or wish.get("visibility") == "private"
            if name in repos:
                return self.answer({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            repos[name] = {"main": {}}
            return self.answer({"url": f"{self.server.url}/{name}"})
        if found := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            repos[found[1]].setdefault(found[2], {})
            return self.answer({})
        if found := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in json.loads(data)["files"]
            ]
            return self.answer({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                o | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}}
                for o in json.loads(data)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            for line in map(json.loads, data.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repos[found[1]][found[2]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repos[found[1]][found[2]][value["path"]] = self.server.lfs[value["oid"]]
            url = f"{self.server.url}/{found[1]}/commit/{'0' * 40}"
            return self.answer({"commitOid": "0" * 40, "commitUrl": url, "success": True})
        return self.answer({"error": path}, 404)

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.lfs[oid] = data
        self.answer()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            if found[1] not in self.server.repos:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            files = [{"rfilename": name} for name in self.server.repos[found[1]]["main"]]
            return self.answer({"id": found[1], "sha": "0" * 40, "siblings": files, "tags": []})
        if found := re.fullmatch(r"/api/models/(.+)/tree/[^/]+", path):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.server.repos[found[1]]["main"].items()
            ]
            return self.answer(tree)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.server.repos.get(found[1], {}).get("main", {}).get(found[2])
            if data is None:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40)
            return self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit="0" * 40)
        return self.answer({"error": path}, 404)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.repos, server.lfs, server.requests, server.private = {}, {}, [], {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def checkpoint(tmp_path, make_model, tokenizer):
    """A whole model's checkpoint in a folder, with a card."""
    folder = tmp_path / "checkpoint"
    make_model(threshold=0.25, threshold_from="best f1 on the dev split (9 traces)").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, None)
    return folder


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


def test_a_recipe_with_push_to_hub(hub, tmp_path, tiny_model_dir):
    """Just the final checkpoint goes up, once, and comes down again with the same scores."""
    data = tmp_path / "data.jsonl"
    write_traces(make_traces(3), data)
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {tiny_model_dir()}\nbackbone: full\ntrain_data: {data}\neval_data: {data}\n"
        "allow_overlap: true\n"
        f"output_dir: {run}\nmax_steps: 2\nsave_steps: 1\npush_to_hub: true\nhub_model_id: me/prm\n"
        "hub_private_repo: true\nreport_to: none\nuse_cpu: true\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, str(recipe), str(run / "checkpoint"), str(data)],
        env=os.environ
        | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_right",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPO),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"pushed to    {hub.url}/me/prm" in done.stdout and "the same scores" in done.stdout
    folder = run / "checkpoint"
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert hub.repos["me/prm"]["main"] == files
    assert files.keys() >= {"config.json", "head.safetensors", "model.safetensors", "README.md"}
    assert hub.private == {"me/prm": True}
    assert sum("/commit/" in path for _, path in hub.requests) == 1


def test_from_python(hub, tmp_path, tiny_model_dir, monkeypatch):
    """With `push_to_hub=True` nothing is pushed while training, and the finished folder at the end."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    args = PRMConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True, max_steps=2, save_steps=1,
        push_to_hub=True, hub_model_id="me/prm", hub_token="hf_right",
    )  # fmt: skip
    trainer = PRMTrainer(str(tiny_model_dir()), args, train_dataset=make_traces(2))
    trainer.train()
    assert not hub.requests
    assert trainer.push_to_hub() == f"{hub.url}/me/prm"
    assert hub.repos["me/prm"]["main"].keys() >= {"config.json", "head.safetensors", "README.md"}
    assert not any("checkpoint" in name or name.endswith(".pt") for name in hub.repos["me/prm"]["main"])


def test_a_branch(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    assert push_checkpoint(checkpoint, "me/other", token="hf_right", revision="v2").endswith("/me/other")
    assert not hub.repos["me/other"]["main"] and "config.json" in hub.repos["me/other"]["v2"]


@pytest.mark.parametrize(
    ("where", "token", "name", "reason"),
    [
        ("the hub", "hf_wrong", "me/prm", "401"),
        ("the hub", None, "me/prm", "401|[Tt]oken"),
        ("the hub", "hf_right", "me/a name/x", "[Rr]epo id"),
        ("nowhere", "hf_right", "me/prm", "[Cc]onnect|refused"),
    ],
)
def test_errors_are_one_line(hub, checkpoint, monkeypatch, where, token, name, reason):
    """They say that the checkpoint is safe, where, what was wrong and what to do."""
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", hub.url if where == "the hub" else "http://127.0.0.1:9"
    )
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError) as error:
        push_checkpoint(checkpoint, name, token=token)
    message = str(error.value)
    assert message.startswith(f"the checkpoint is in {checkpoint}, but pushing it to {name} failed: ")
    assert re.search(reason, message) and "\n" not in message and "hf auth login" in message


# The card


def test_the_whole_card(checkpoint, tiny_model_dir):
    """A full model: nothing of the machine it was trained on is in it."""
    metrics = {
        "n_traces": 12, "n_erroneous": 5, "threshold": 0.25,
        "threshold_from": "best f1 on the dev split (9 traces)",
        "first_error_acc": 0.5, "f1": None, "error_acc": 0.25, "correct_acc": 1.0, "step_auc": 0.75,
        "false_early_rate": 0.0, "miss_rate": 0.125, "ci": {"first_error_acc": [0.25, 0.625], "f1": None},
    }  # fmt: skip
    write_card(checkpoint, metrics)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    expected = f"""\
---
library_name: nl2sql-prm
pipeline_tag: token-classification
tags:
- process-reward-model
- text-to-sql
---

# Process reward model for text-to-SQL

Scores each reasoning step of a text-to-SQL answer: P(no error up to and including this step).

Backbone: `{tiny_model_dir().name}` (full), loss `bce`, threshold 0.250 (best f1 on the dev split (9 traces)).

```python
from prm import Scorer, Step, Trace

scorer = Scorer.from_pretrained("this/repository")
trace = Trace("How many singers are there?", [Step("Count the rows of singer.")], schema="…")
scorer.score([trace])
```

Measured on 12 traces, 5 of them erroneous, at threshold 0.250 (best f1 on the dev split (9 traces)):

| metric | value | 95 % interval |
|---|---|---|
| first_error_acc | 0.500 | 0.250 – 0.625 |
| f1 | – |  |
| error_acc | 0.250 |  |
| correct_acc | 1.000 |  |
| step_auc | 0.750 |  |
| false_early_rate | 0.000 |  |
| miss_rate | 0.125 |  |
"""
    assert card == expected


def test_the_card_names_a_base_of_the_hub_and_owns_up_to_a_local_one(tmp_path, make_model, tiny_model_dir):
    for base in ("Qwen/Qwen2.5-7B", str(tiny_model_dir())):
        model = make_model(backbone="lora")
        model.config.base_model_name_or_path = base
        folder = tmp_path / "card"
        model.save_pretrained(folder)
        write_card(folder, None)
        card = (folder / "README.md").read_text(encoding="utf-8")
        local = base.startswith("/")
        assert ("base_model: Qwen/Qwen2.5-7B\n" in card) is not local
        assert ("was a folder on the machine of the training" in card) is local
        assert not local or base not in card
