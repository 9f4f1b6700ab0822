"""A checkpoint on the Hub: pushed as one commit, fetched by whoever names it.

A push sends a checkpoint's own files and nothing else: safetensors, JSON, the tokenizer, the card. Pickles
(the optimizer of a training folder) never go up, and none is ever fetched. All files arrive in one commit, so
that nobody can load half a checkpoint; of an upload that broke off, the files that had arrived are not sent
again by the next one, since the Hub knows them by their hash.

What only this machine understands stays on it: where the base model lies in a local folder, the pushed
configuration does not name that folder. Whoever loads it then gives the base; better, the push does.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from prm.errors import InputError
from prm.modeling.card import PLACEHOLDER, render_card

#: Kinds of files that a checkpoint consists of; whatever else lies in its folder is not pushed.
KINDS = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
#: Of them those that say something of the training's folder only.
NOT_PUSHED = ("complete.json", "incomplete")
#: What an earlier push may have left in the repository, and a later one, of another kind, would not write.
OURS = ("adapter/*", "model*.safetensors", "model.safetensors.index.json", "metrics.json", "training.json")

TOKENIZER_FILE = "tokenizer_config.json"


def push_checkpoint(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    metrics: Sequence[dict[str, Any]] | None = None,
    named: Path | None = None,
) -> str:
    """Create the repository where it does not exist and upload a checkpoint; returns its address.

    The folder is only read. What differs in the repository: `config.json` names no folder of this machine,
    and the card names the repository. A card that was written by hand is kept as it is.

    Args:
        revision: a branch, made where it does not exist; None: the main one.
        base_model, base_revision: the base model's id on the Hub, where the checkpoint knows it as a folder;
            its present commit is pinned unless `base_revision` names another. A new card is written.
        metrics: dicts as `prm evaluate` writes them, for a new card in place of the folder's.
        named: the folder that messages speak of, where `folder` is a passing one.

    Raises:
        InputError: no complete checkpoint; no network, no or a wrong token, no right to write there, a bad
            name.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    files = checkpoint_files(folder)
    api = HfApi(token=token)
    try:
        if base_model is not None:
            base_revision = api.model_info(base_model, revision=base_revision).sha
        contents = _public(folder, base_model, base_revision)
        contents["README.md"] = _card(
            folder, repo_id, contents, fresh=metrics is not None or base_model is not None, metrics=metrics
        )
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
        there = api.list_repo_files(repo.repo_id, revision=revision)
        names = {*files, *contents}
        operations: list[Any] = [
            CommitOperationDelete(path_in_repo=name)
            for name in there
            if name not in names and any(PurePosixPath(name).match(pattern) for pattern in OURS)
        ]
        # The weights first: they take the time, and the small files go with the commit itself.
        operations += [
            CommitOperationAdd(name, contents.get(name, folder / name))
            for name in sorted(names, key=lambda name: (not name.endswith(".safetensors"), name))
        ]
        api.create_commit(
            repo.repo_id,
            operations,
            commit_message=commit_message or "Upload process reward model",
            revision=revision,
        )
    except InputError:
        raise
    except Exception as error:  # whatever it is (the HTTP library differs by version), the checkpoint is safe
        raise InputError(
            f"the checkpoint is in {named or folder}, but pushing it to {repo_id} failed: "
            f"{hub_reason(error)}; check the network and `hf auth login`, then run the same command again"
        ) from error
    return str(repo)


def push_model(
    folder: Path,
    repo_id: str,
    *,
    merged: bool = False,
    metrics: Sequence[str] | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> str:
    """`prm push --model`: a checkpoint as it is, or merged into a whole model that needs nothing else.

    Merged weights lie in a folder beside the checkpoint only while they are sent. They are the same bytes
    each time, so that an upload that broke off is not begun anew.

    Args:
        metrics: names of files that `prm evaluate` wrote.
        options: as of `push_checkpoint`.
    """
    if base_revision is not None and base_model is None:
        raise InputError("--base-revision goes with --base-model")
    options |= {"metrics": None if metrics is None else [_measured(Path(name)) for name in metrics]}
    options |= {"base_model": base_model, "base_revision": base_revision}
    folder = Path(folder)
    checkpoint_files(folder)
    if not merged:
        return push_checkpoint(folder, repo_id, **options)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.merged.", dir=folder.resolve().parent) as whole:
        merge(
            folder,
            Path(whole),
            base_model=base_model,
            trust_remote_code=trust_remote_code,
            token=options.get("token"),
        )
        return push_checkpoint(Path(whole), repo_id, named=folder, **options)


def _measured(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError("no such file", file=str(file))
    values = _json(file)
    if "n_traces" not in values or "threshold_from" not in values:
        raise InputError("is no metrics.json of prm evaluate", file=str(file))
    return values


def merge(
    folder: Path,
    output: Path,
    *,
    base_model: str | None = None,
    trust_remote_code: bool = False,
    token: str | None = None,
) -> None:
    """Write a checkpoint of a whole model from one of an adapter or a head: backbone: full.

    In a backbone of 16 bits the sum is rounded. `base_model` is where the base is, if the folder is gone that
    the checkpoint names.
    """
    from prm.modeling.process_reward_model import (
        ProcessRewardConfig,
        ProcessRewardModel,
        load_tokenizer,
        merged_backbone,
    )

    config = ProcessRewardConfig.from_pretrained(folder)
    kind, known = config.backbone, config.base_model_name_or_path or ""
    model = ProcessRewardModel.from_pretrained(
        folder,
        config=config,
        base_model_name_or_path=base_model if os.path.isabs(known) and not os.path.isdir(known) else None,
        trust_remote_code=trust_remote_code,
        token=token,
    )
    model.backbone = merged_backbone(model, folder)
    model.config.backbone = "full"
    base = model.backbone.config.to_dict()
    base.pop("quantization_config", None)  # the weights are dense now
    model.config.base_config = base
    model.save_pretrained(output)
    load_tokenizer(folder, trust_remote_code=trust_remote_code).save_pretrained(output)
    for name in ("training.json", "metrics.json", "trainer_state.json"):
        if (folder / name).is_file():
            values = _json(folder / name)
            if name == "training.json" and kind != "full":
                values["merged_from"] = kind
            (output / name).write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")


def push_data(
    file: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a file of labelled traces to a data set repository: with its statistics, and its data card as
    `README.md`, whose first lines make the Hub read the file as a split. Returns the address.

    Raises:
        InputError: no such file, or no data card beside it; or as `push_checkpoint`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    card = Path(f"{file}.md")
    if not Path(file).is_file():
        raise InputError("no such file", file=str(file))
    if not card.is_file():
        raise InputError(
            f"has no data card {card.name} beside it; write one, or make the file with prm build, label, "
            "rollout, judge or consensus",
            file=str(file),
        )
    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo.repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        beside = [one for one in (Path(file), Path(f"{file}.stats.json")) if one.is_file()]
        api.create_commit(
            repo.repo_id,
            [*(CommitOperationAdd(one.name, one) for one in beside), CommitOperationAdd("README.md", card)],
            repo_type="dataset",
            commit_message=commit_message or "Upload step-labelled traces",
            revision=revision,
        )
    except Exception as error:
        raise InputError(
            f"the traces are in {file}, but pushing them to {repo_id} failed: {hub_reason(error)}; check the "
            "network and `hf auth login`, then run the same command again"
        ) from error
    return str(repo)


def checkpoint_files(folder: Path) -> list[str]:
    """The files of a checkpoint that go to the Hub, as paths below `folder`.

    Raises:
        InputError: the folder is none, or no complete checkpoint with its tokenizer.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    config = _json(folder / "config.json")
    if config.get("model_type") != "process_reward_model":
        inside = folder / "checkpoint"
        mend = f"name {inside}" if (inside / "config.json").is_file() else "name a folder that training wrote"
        raise InputError(f"{folder} is no PRM checkpoint: {mend}")
    needed = ["head.safetensors", TOKENIZER_FILE]
    if config.get("backbone") in ("lora", "qlora"):
        needed += ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    if config.get("backbone") == "full" and not (folder / "model.safetensors.index.json").is_file():
        needed.append("model.safetensors")
    for name in needed:
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no whole checkpoint: {name} is missing; copy or train it again")
    found = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return [
        path.as_posix()
        for path in found
        if path.suffix in KINDS
        and path.name not in NOT_PUSHED
        and not any(part.startswith(".") for part in path.parts)
    ]


def _public(folder: Path, base_model: str | None, base_revision: str | None) -> dict[str, bytes]:
    """The files that differ in the repository: they name the base model, and no folder of this machine."""
    contents = {}
    for name in ("config.json", "adapter/adapter_config.json"):
        if not (folder / name).is_file():
            continue
        values = _json(folder / name)
        ours = name == "config.json"
        key, pin = "base_model_name_or_path", "base_model_revision" if ours else "revision"
        if base_model is not None:
            values[key], values[pin] = base_model, base_revision
        elif os.path.isabs(values.get(key) or ""):
            values[key] = None
        if ours and os.path.isabs(values.get("base_config", {}).get("_name_or_path") or ""):
            del values["base_config"]["_name_or_path"]
        contents[name] = (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
    return contents


def _card(
    folder: Path,
    repo_id: str,
    contents: dict[str, bytes],
    *,
    fresh: bool,
    metrics: Sequence[dict[str, Any]] | None,
) -> bytes:
    """The folder's card with the repository's name in it; a new one if asked for or if there is none."""
    file = folder / "README.md"
    if fresh or not file.is_file():
        # Of the pushed configuration the base; of the folder's own its last name, where it is no more.
        config = _json(folder / "config.json")
        public = json.loads(contents["config.json"])
        if public["base_model_name_or_path"] is not None:
            config = public
        return render_card(folder, config=config, metrics=metrics, repo_id=repo_id).encode()
    return file.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id).encode()


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}); copy the checkpoint again", file=str(file)) from error
    return values if isinstance(values, dict) else {}


def hub_reason(error: BaseException) -> str:
    """In one line, why the Hub gave or took nothing; what it says itself where that is plain enough."""
    from huggingface_hub import constants, errors, get_token

    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    for one in chain:
        if isinstance(one, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so nothing is asked of the Hub"
        # httpx, httpx2, requests: the client's HTTP library, which differs by version.
        library = type(one).__module__.partition(".")[0]
        kind = type(one).__name__
        if library.startswith(("httpx", "httpcore", "requests")) and ("Connect" in kind or "Timeout" in kind):
            return f"{constants.ENDPOINT} cannot be reached ({_first_line(one)})"
        status = getattr(getattr(one, "response", None), "status_code", None)
        # What a token is read from is asked for last: the one given to a call is not seen here.
        token = "the token is not accepted" if get_token() else "no token was given, or it is not accepted"
        if isinstance(one, errors.GatedRepoError):
            return f"{status}: access to it must be asked for on its page"
        if isinstance(one, errors.RevisionNotFoundError):
            return f"{status}: it has no such revision"
        if isinstance(one, errors.RepositoryNotFoundError):
            return f"{status}: there is no such repository, or it is private and {token}"
        if status == 401:
            return f"401: {token}"
        if status == 403:
            return f"403: the token may not do this ({_server_says(one)})"
        if isinstance(one, errors.HfHubHTTPError) and status is not None:
            return f"{status}: {_server_says(one)}"
    return _first_line(error)


def _server_says(error: BaseException) -> str:
    return " ".join((getattr(error, "server_message", None) or _first_line(error)).split())


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
