"""The model card of a checkpoint, and the checkpoint on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prm.errors import InputError
from prm.modeling.process_reward_model import ProcessRewardConfig

_RATES = ("first_error_acc", "f1", "error_acc", "correct_acc", "step_auc", "false_early_rate", "miss_rate")

_USAGE = """\
```python
from prm import Scorer, Step, Trace

scorer = Scorer.from_pretrained("this/repository")
trace = Trace("How many singers are there?", [Step("Count the rows of singer.")], schema="…")
scorer.score([trace])
```"""


def write_card(folder: Path, metrics: dict[str, Any] | None) -> None:
    """Write `README.md` into a checkpoint folder: what it is, how to load it, and how it was measured."""
    from huggingface_hub import ModelCardData

    config = ProcessRewardConfig.from_pretrained(folder)
    base = config.base_model_name_or_path
    local = base is None or Path(base).is_absolute()
    data = ModelCardData(
        library_name="nl2sql-prm",
        pipeline_tag="token-classification",
        tags=["process-reward-model", "text-to-sql"],
        base_model=None if local else base,
    )
    name = f"`{Path(base).name if local and base else base}`"
    lines = [
        f"---\n{data.to_yaml()}\n---",
        "# Process reward model for text-to-SQL",
        "Scores each reasoning step of a text-to-SQL answer: P(no error up to and including this step).",
        f"Backbone: {name} ({config.backbone}), loss `{config.loss}`, threshold {config.threshold:.3f} "
        f"({config.threshold_from}).",
        _USAGE,
    ]
    if local and config.backbone != "full":
        lines.append(
            f"The backbone {name} was a folder on the machine of the training and is not part of this "
            'repository: load with `Scorer.from_pretrained(…, base_model_name_or_path="folder or Hub id")`.'
        )
    if metrics is not None:
        rows = [f"| {name} | {_cell(metrics.get(name))} | {_interval(metrics, name)} |" for name in _RATES]
        lines.append(
            f"Measured on {metrics['n_traces']} traces, {metrics['n_erroneous']} of them erroneous, at "
            f"threshold {metrics['threshold']:.3f} ({metrics['threshold_from']}):\n\n"
            "| metric | value | 95 % interval |\n|---|---|---|\n" + "\n".join(rows)
        )
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def push_checkpoint(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Create the repository where it does not exist and upload just this folder; returns its address.

    Raises:
        InputError: no network, no or a wrong token, no right to write there, a bad name.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo.repo_id,
            revision=revision,
            commit_message=commit_message or "Upload process reward model",
        )
    except Exception as error:  # whatever it is (the HTTP library differs by version), the checkpoint is safe
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise InputError(
            f"the checkpoint is in {folder}, but pushing it to {repo_id} failed: {reason}; check the network "
            "and `hf auth login`, then run the same command again"
        ) from error
    return str(repo)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(metrics: dict[str, Any], name: str) -> str:
    interval = (metrics.get("ci") or {}).get(name)
    return "" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}"
