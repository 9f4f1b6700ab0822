"""A small Hugging Face Hub on loopback, for the unchanged `huggingface_hub` client with `HF_ENDPOINT`.

Real HTTP, and of the Hub what a push and a load need: creating repositories, branches, validating a card's
metadata, preupload, LFS batch and upload (checked by sha256), commits, listing, info, resolving files by
branch or commit with ETag, redirects for large files and ranges; private repositories; tokens that may read
only. Every repository keeps all its commits, as git would.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

#: Token -> (user, whether it may write).
TOKENS = {"hf_right": ("me", True), "hf_reader": ("me", False), "hf_other": ("other", True)}
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet")
ID = r"(?:[\w-]+/)?[\w.-]+"


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(branch, "")
        listing = sorted((path, git_sha1(data)) for path, data in files.items())
        oid = hashlib.sha1(json.dumps([parent, listing]).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def at(self, revision: str) -> str | None:
        """The commit of a branch's name, or of itself."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.at(revision)]


class Hub(ThreadingHTTPServer):
    """`hub.repos["me/prm"].files("main")`: what is there; `hub.requests`: (method, path, token) so far;
    `hub.sent[sha256]`: how often a large file was begun to be sent, `hub.received`: bytes of large files so
    far. Where `hub.hold(sha256, bytes of it received)` is true, nothing more is read of the upload, now
    or later, and `hub.held` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"  # of large files: as on the Hub, another host
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.received = 0
        self.hold = lambda sha256, received: False
        self.held = threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        """Nothing: clients are killed on purpose."""

    def commits_made(self) -> int:
        return sum(method == "POST" and "/commit/" in path for method, path, _ in self.requests)


@contextmanager
def serving_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def environment(hub: Hub | str, home, token: str | None = "hf_right") -> dict[str, str]:
    """Variables for a client process: this Hub, a cache of its own, and LFS in place of Xet."""
    values = {
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return values | ({"HF_TOKEN": token} if token else {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    # ---- answers

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

    def refuse(self, status, message, code=None):
        """As the Hub does: the reason in the body, and in headers for HEAD."""
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": message}, status, **headers)

    @property
    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def readable(self, name):
        """The repository, or None after a refusal: the same one whether it is private or not there at all."""
        repo, owner = self.server.repos.get(name), name.removeprefix("datasets/").partition("/")[0]
        user, _ = TOKENS.get(self.token, (None, False))
        if self.token is not None and user is None:
            self.refuse(401, "Invalid username or password.")
        elif repo is None or (repo.private and owner != user):
            status = 401 if self.token is None else 404
            self.refuse(status, "Repository not found", "RepoNotFound")
        else:
            return repo
        return None

    def writable(self, name):
        """Whether the token may write there; if not, after a refusal."""
        user, may = TOKENS.get(self.token, (None, False))
        if user is None:
            self.refuse(401, "Invalid username or password.")
        elif not may or (name is not None and not name.startswith(f"{user}/")):
            self.refuse(403, "Forbidden: this token does not have write access")
        else:
            return True
        return False

    # ---- writing

    def do_POST(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append((self.command, path, self.token))
        if path == "/api/validate-yaml":
            wish = json.loads(data)
            errors = metadata_errors(wish["content"], wish["repoType"])
            body = {"errors": [{"message": error} for error in errors], "warnings": []}
            return self.answer(body, 400 if errors else 200)
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        kinds = r"/api/(model|dataset)s/([^/]+/[^/]+)"
        if found := re.fullmatch(kinds + r"/(branch|preupload|commit)/(.+)", path):
            name = key(found[1], found[2])
            if not self.writable(found[2]) or self.readable(name) is None:
                return None
            return getattr(self, found[3])(name, found[4], data)
        if found := re.fullmatch(r"/(?:datasets/)?(.+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(data)) if self.writable(found[1]) else None
        if path.startswith("/lfs/verify/"):
            wish = json.loads(data)
            there = hub.lfs.get(wish["oid"])
            right = there is not None and len(there) == wish["size"]
            return self.answer({}) if right else self.refuse(404, "no such object")
        return self.refuse(404, path)

    def create(self, wish):
        if not self.writable(None):
            return None
        user, _ = TOKENS[self.token]
        owner = wish.get("organization") or user
        kind = wish.get("type") or "model"
        if owner != user:
            return self.refuse(
                403, f"You don't have the rights to create a model under the namespace {owner}"
            )
        name = key(kind, f"{owner}/{wish['name']}")
        url = f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{owner}/{wish['name']}"
        with self.server.lock:
            if name in self.server.repos:
                return self.answer({"error": "You already created this repo", "url": url}, 409)
            repo = self.server.repos[name] = Repo(private=wish.get("visibility") == "private")
            repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.answer({"url": url})

    def branch(self, name, branch, data):
        repo = self.server.repos[name]
        if branch in repo.branches:
            return self.refuse(409, "Reference already exists")
        start = repo.at(json.loads(data or b"{}").get("startingPoint", "main"))
        repo.branches[branch] = start
        return self.answer({}, 201)

    def preupload(self, name, revision, data):
        files = self.server.repos[name].files(revision)
        answers = []
        for wish in json.loads(data)["files"]:
            large = wish["path"].endswith(LFS_SUFFIXES)
            there = files.get(wish["path"])
            oid = None if there is None else sha256(there) if large else git_sha1(there)
            mode = "lfs" if large else "regular"
            answers.append({"path": wish["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.answer({"files": answers})

    def batch(self, wish):
        """What is there already has no action: nothing is to be sent."""
        objects = []
        for one in wish["objects"]:
            if one["oid"] not in self.server.lfs:
                upload = {"href": f"{self.server.url}/lfs/{one['oid']}"}
                verify = {"href": f"{self.server.url}/lfs/verify/{one['oid']}"}
                one = one | {"actions": {"upload": upload, "verify": verify}}
            objects.append(one)
        return self.answer({"transfer": "basic", "objects": objects})

    def do_PUT(self):
        hub, oid = self.server, self.path.rpartition("/")[2]
        hub.sent[oid] += 1
        left, data = int(self.headers["Content-Length"]), bytearray()
        while left and (part := self.rfile.read1(min(left, 1 << 16))):
            data += part
            left -= len(part)
            with hub.lock:
                hub.received += len(part)
            if hub.hold(oid, len(data)):
                hub.held.set()
                while hub.hold(oid, len(data)):
                    time.sleep(0.02)
                return None
        if left:
            return None
        if sha256(bytes(data)) != oid:
            return self.refuse(400, "the content does not have this sha256")
        hub.lfs[oid] = bytes(data)
        return self.answer()

    def commit(self, name, revision, data):
        hub, repo = self.server, self.server.repos[name]
        if revision not in repo.branches:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        files = dict(repo.files(revision))
        for line in map(json.loads, data.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in hub.lfs:
                    return self.refuse(400, f"the LFS object of {value['path']} was never uploaded")
                files[value["path"]] = hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(revision, files)
        return self.answer({"commitOid": oid, "commitUrl": f"{hub.url}/{name}/commit/{oid}", "success": True})

    # ---- reading

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, quoted = self.server, urlsplit(self.path).path
        path = unquote(quoted)
        hub.requests.append((self.command, path, self.token))
        if path.startswith("/cdn/"):
            return self.content(hub.lfs[path.removeprefix("/cdn/")])
        kinds = r"/api/(model|dataset)s/([^/]+/[^/]+)"
        if found := re.fullmatch(kinds + r"(?:/revision/(.+))?", path):
            return self.info(found[1], found[2], found[3] or "main")
        # Here a path may follow the revision, whose own slashes are quoted.
        if found := re.fullmatch(kinds + r"/tree/([^/]+)(?:/(.+))?", quoted):
            return self.tree(found[1], found[2], unquote(found[3]), unquote(found[4] or ""))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", quoted):
            name = key("dataset" if found[1] else "model", found[2])
            return self.resolve(name, unquote(found[3]), unquote(found[4]))
        return self.refuse(404, path)

    def of_revision(self, name, revision):
        """(repository, commit), or None after a refusal."""
        repo = self.readable(name)
        if repo is None:
            return None
        oid = repo.at(revision)
        if oid is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return repo, oid

    def info(self, kind, name, revision):
        if (at := self.of_revision(key(kind, name), revision)) is None:
            return None
        repo, oid = at
        siblings = [{"rfilename": path} for path in repo.commits[oid]]
        return self.answer(
            {"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
        )

    def tree(self, kind, name, revision, below):
        if (at := self.of_revision(key(kind, name), revision)) is None:
            return None
        repo, oid = at
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
        below = f"{below}/" if below else ""
        entries = []
        for path, data in repo.commits[oid].items():
            if not path.startswith(below) or (not recursive and "/" in path.removeprefix(below)):
                continue
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if path.endswith(LFS_SUFFIXES):
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        if below and not entries:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        return self.answer(entries)

    def resolve(self, name, revision, path):
        if (at := self.of_revision(name, revision)) is None:
            return None
        repo, oid = at
        data = repo.commits[oid].get(path)
        if data is None:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        if path.endswith(LFS_SUFFIXES):
            self.server.lfs[sha256(data)] = data
            return self.answer(
                status=302, Location=f"{self.server.cdn}/cdn/{sha256(data)}", X_Repo_Commit=oid,
                X_Linked_ETag=f'"{sha256(data)}"', X_Linked_Size=len(data),
            )  # fmt: skip
        return self.content(data, ETag=f'"{git_sha1(data)}"', X_Repo_Commit=oid)

    def content(self, data, **headers):
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found[1])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(data[start:], 206, **headers)
        return self.answer(data, **headers)


def key(kind: str, name: str) -> str:
    return f"datasets/{name}" if kind == "dataset" else name


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def metadata_errors(card: str, kind: str) -> list[str]:
    """What the Hub would not take in the YAML of a card."""
    found = re.match(r"---\r?\n(.*?)^---\r?$", card, re.S | re.M)
    if found is None:
        return []
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"the metadata is no YAML: {error}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    errors = []

    def check(holds, message):
        if not holds:
            errors.append(message)

    def texts(name):
        value = data.get(name, [])
        value = [value] if isinstance(value, str) else value
        good = isinstance(value, list) and all(isinstance(one, str) for one in value)
        check(good, f'"{name}" must be a string or a list of strings')
        return value if good else []

    for name in ("base_model", "datasets"):
        for one in texts(name):
            check(re.fullmatch(ID, one), f'"{name}" with value "{one}" is not valid: use an id of the Hub')
    relation = data.get("base_model_relation")
    check(relation in (None, "adapter", "finetune", "merge", "quantized"), '"base_model_relation" is unknown')
    for name in ("tags", "language", "license"):
        texts(name)
    for name in ("library_name", "pipeline_tag"):
        check(isinstance(data.get(name, ""), str), f'"{name}" must be a string')
    for entry in data.get("model-index", []) if kind == "model" else []:
        check(isinstance(entry.get("name"), str) and entry["name"], '"model-index[].name" is required')
        for result in entry.get("results", []):
            check(isinstance(result.get("task", {}).get("type"), str), '"task.type" is required')
            dataset = result.get("dataset", {})
            check(isinstance(dataset.get("name"), str), '"dataset.name" is required')
            check(re.fullmatch(ID, str(dataset.get("type", "/"))), '"dataset.type" must be an id')
            for metric in result.get("metrics", [{}]):
                check(isinstance(metric.get("type"), str), '"metrics[].type" is required')
                check(isinstance(metric.get("value"), (int, float)), '"metrics[].value" must be a number')
    return errors
