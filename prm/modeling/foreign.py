"""Process reward models of others: published heads in (`load_prm`), vLLM's layout out (`export_vllm`).

They differ less than their code does. Each puts one number on each step, read from the hidden state of one
token, and the sigmoid of that number is the score:

| kind | published as | the number | the token |
|---|---|---|---|
| `qwen2.5-math` | `Qwen2ForProcessRewardModel` | two classes behind a hidden layer | `<extra_0>` |
| `skywork` | `Qwen2ForPrmModel`, `v_head.summary` | a value head | newline behind a step |
| `trl` | a token classifier | two classes | the separator's last |
| `math-shepherd` | a causal LM | logit of `+` minus logit of `-` | `ки` behind a step |
| `rlhflow` | a causal LM | the same | the last before the reply `+` |

(A softmax over two is the sigmoid of their difference, so a vocabulary head comes down to two of its rows.)
All of these are a `PRMHead`: the two-layer ones directly, and a linear one by relu(x) - relu(-x) = x. So a
foreign model becomes an ordinary `ProcessRewardModel` whose prompts are of a version of their own, and all
that works with ours works with it: token trees, branches, ensembles. Its remote code is never run.

What they read as the problem is schema, evidence and question as in our own prompts; where a trace has the
question alone, it is the question alone, as in the mathematics these models were made for.

Templates and places follow the model cards of Qwen2.5-Math-PRM, Skywork-o1-Open-PRM, Math-Shepherd (Wang et
al. 2024) and RLHFlow's PRMs, and the tokenisation of TRL's `PRMTrainer`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prm.errors import InputError
from prm.modeling.process_reward_model import (
    ProcessRewardConfig,
    ProcessRewardModel,
    load_base,
    load_tokenizer,
    merged_backbone,
    read_trees,
    readable,
    snapshot,
)
from prm.traces.encoding import Encoder
from prm.traces.prompting import PROMPT_VERSION, prompt_text
from prm.traces.trace import Trace

KINDS = ("qwen2.5-math", "skywork", "trl", "math-shepherd", "rlhflow")
#: Of these there is nothing to see in a plain language model: the caller has to say so.
NEXT_TOKEN = ("math-shepherd", "rlhflow")
#: Families whose logits are the vocabulary head's product with the last hidden state, and nothing else.
NEXT_TOKEN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

VLLM_ARCHITECTURE = "Qwen2ForProcessRewardModel"
#: Key of an exported config.json: what is left of our own config, so that `load_prm` reads it as we do.
EXPORTED = "nl2sql_prm"
EXPORTED_SETTINGS = (
    "prompt_version", "step_separator", "max_trace_length", "max_completion_length", "threshold",
    "threshold_from", "position_means",
)  # fmt: skip
POOLER_FILE = "pooler_config.json"


# ---- prompts


def problem_text(trace: Trace, schema: str | None = None) -> str:
    """Schema, evidence and question as in our prompts, but the bare question where there is nothing else."""
    if isinstance(trace.extra.get("prompt"), str):
        return trace.extra["prompt"].strip()
    if not (schema or trace.schema or trace.evidence):
        return trace.question.strip()
    return prompt_text(trace, schema).removesuffix("\nSteps:\n").strip()


@dataclass
class _ProblemEncoder(Encoder):
    """What the templates below have in common: the problem, and control text with special tokens."""

    def prompt_text(self, trace: Trace, schema: str | None = None) -> str:
        return problem_text(trace, schema)

    def control_ids(self, text: str) -> list[int]:
        """Of a template's own text, never of data: special tokens in it are special."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def rendered(self, messages: Sequence[tuple[str, str]], marks: Sequence[str]) -> list[str]:
        """The chat template's text around the `marks`, which stand in the messages in this order."""
        if not self.tokenizer.chat_template:
            raise InputError(
                f"a {self.version} model needs the chat template of its tokenizer, and there is none in its "
                "folder; copy the tokenizer again"
            )
        text = self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages], tokenize=False
        )
        assert isinstance(text, str)  # not tokenised
        parts = []
        for mark in marks:
            part, found, text = text.partition(mark)
            if not found:
                raise InputError(f"the chat template cannot be that of a {self.version} model: it drops text")
            parts.append(part)
        return [*parts, text]


@dataclass
class QwenEncoder(_ProblemEncoder):
    """Qwen2.5-Math-PRM: one assistant message, `<extra_0>` behind each step, which is scored."""

    version: ClassVar[str] = "qwen2.5-math"
    system: ClassVar[str] = "Please reason step by step, and put your final answer within \\boxed{}."

    def __post_init__(self) -> None:
        self.step_separator = "<extra_0>"
        super().__post_init__()
        if len(self._separator) != 1:
            raise InputError("the tokenizer of a qwen2.5-math model must have the token <extra_0>")
        marks = ("§problem§", "§steps§")
        messages = zip(("system", "user", "assistant"), (self.system, *marks), strict=True)
        before, between, _ = self.rendered(list(messages), marks)
        self._before, self._after = self.control_ids(before), self.control_ids(between)


@dataclass
class SkyworkEncoder(_ProblemEncoder):
    """Skywork-o1-Open-PRM: the problem and each step on a line, the newline behind a step is scored."""

    version: ClassVar[str] = "skywork"

    def __post_init__(self) -> None:
        self.step_separator = "\n"
        super().__post_init__()
        self._separator = self._separator[-1:]

    def prompt_text(self, trace: Trace, schema: str | None = None) -> str:
        return super().prompt_text(trace, schema) + "\n"


@dataclass
class MathShepherdEncoder(_ProblemEncoder):
    """Math-Shepherd: `Step 1: … ки`, a line a step; at `ки` the next token's odds of + against - are read.

    Tokenizers of its kind (SentencePiece) put a space before whatever a text begins with. So a step is
    tokenised behind a `ки` as in the whole text, and that one is cut off.
    """

    version: ClassVar[str] = "math-shepherd"
    tag: ClassVar[str] = "ки"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tag = self.control_ids(self.tag)

    def step_text(self, text: str, index: int) -> str:
        text = text.strip()
        if not re.match(r"Step \d+:", text):
            text = f"Step {index + 1}: {text}"
        return f"{self.tag}{' ' if index == 0 else chr(10)}{text} {self.tag}"

    def step_ids(self, text: str, index: int) -> list[int]:
        return self._ids(self.step_text(text, index))[len(self._tag) :]


@dataclass
class RLHFlowEncoder(_ProblemEncoder):
    """RLHFlow: each step is a message of the user, answered by `+`; the odds of that answer are read.

    The first message is problem and step with a space between. All earlier answers are `+`, right or wrong.
    """

    version: ClassVar[str] = "rlhflow"

    def __post_init__(self) -> None:
        super().__post_init__()
        turns = [("user", "§problem§ §first§"), ("assistant", "§sign§"), ("user", "§second§")]
        marks = ("§problem§", "§first§", "§sign§", "§second§")
        before, _, closing, opening, _ = self.rendered([*turns, ("assistant", "+")], marks)
        self._before, self._separator = self.control_ids(before), self.control_ids(closing)
        turn = self.control_ids(f"{closing}+{opening}")
        if turn[: len(self._separator)] != self._separator:
            raise InputError("the chat template of an rlhflow model must end a header by a token of its own")
        self._opening = turn[len(self._separator) :]

    def step_text(self, text: str, index: int) -> str:
        return f" {text.strip()}" if index == 0 else text.strip()

    def step_ids(self, text: str, index: int) -> list[int]:
        return (self._opening if index else []) + super().step_ids(text, index)


_ENCODERS: dict[int | str, type[Encoder]] = {
    cls.version: cls for cls in (Encoder, QwenEncoder, SkyworkEncoder, MathShepherdEncoder, RLHFlowEncoder)
}


def encoder_for(model: ProcessRewardModel, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Traces to tokens as `model` reads them, by the prompt version in its config."""
    config = model.config
    return _ENCODERS.get(config.prompt_version, Encoder)(
        tokenizer,
        max_length=config.max_trace_length,
        max_completion_length=config.max_completion_length,
        step_separator=config.step_separator,
        prompt_version=config.prompt_version,
        longest=model.longest,
    )


# ---- in


def load_prm(
    path_or_id: str | os.PathLike[str],
    *,
    foreign: str | None = None,
    step_separator: str | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
    base_model_name_or_path: str | None = None,
    **others: Any,
) -> ProcessRewardModel:
    """A checkpoint of ours or of others, from a folder or the Hub; which it is, its files tell.

    Args:
        foreign: one of `KINDS`, where they do not: `math-shepherd` and `rlhflow` are plain language models.
        step_separator: of a `trl` model: what it was trained with (a newline by default).
        base_model_name_or_path, others: of a checkpoint of ours, as in `ProcessRewardModel.from_pretrained`;
            so are the arguments in between.

    Raises:
        InputError: there is no such model, it is none that is known, or a file is missing or broken.
    """
    folder = snapshot(path_or_id, revision=revision, token=token, local_files_only=local_files_only)
    raw = _raw_config(folder)
    kind = _kind(folder, raw, foreign)
    if kind is None:
        if step_separator is not None:
            raise InputError(f"{path_or_id} knows its own step separator; leave --step-separator out")
        return ProcessRewardModel.from_pretrained(
            path_or_id,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            token=token,
            local_files_only=local_files_only,
            base_model_name_or_path=base_model_name_or_path,
            **others,
        )
    if others:
        raise TypeError(f"{', '.join(others)}: no argument for a {kind} model")
    if base_model_name_or_path:
        raise InputError(f"{path_or_id} holds its whole backbone itself; leave --base-model out")
    if step_separator is not None and kind != "trl":
        raise InputError(f"{path_or_id}: only a trl model takes --step-separator, and this is {kind}")
    trust_remote_code = trust_remote_code and kind not in ("qwen2.5-math", "skywork")  # we know their code
    files = _weight_files(folder)
    with readable(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise InputError(
            f"{path_or_id}: a {config.model_type} model reads a step's future, too; a process reward model "
            "stands on a decoder"
        )
    if dtype in (None, "auto"):
        dtype = str(raw.get("dtype") or raw.get("torch_dtype"))
        dtype = dtype if isinstance(getattr(torch, dtype, None), torch.dtype) else "float32"
    body = load_base(
        str(folder),
        given_as=None,
        revision=None,
        layers=None,
        dtype=dtype,
        bits=None,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        config=config,
    )
    with readable(folder):
        head = _head(kind, folder, files, body)
    name = os.path.abspath(path_or_id) if os.path.isdir(path_or_id) else str(path_or_id)
    longest = getattr(config, "max_position_embeddings", None) or 4096
    settings: dict[str, Any] = {"max_trace_length": longest, "step_separator": step_separator or "\n"}
    settings["prompt_version"] = PROMPT_VERSION if kind == "trl" else kind
    if EXPORTED in raw:
        with readable(folder):
            settings = {name: raw[EXPORTED][name] for name in EXPORTED_SETTINGS}
    model = ProcessRewardModel(
        ProcessRewardConfig(
            base_model_name_or_path=name,
            base_model_revision=revision,
            base_config=body.config.to_dict(),
            backbone="full",
            backbone_dtype=str(body.dtype).removeprefix("torch."),
            head_hidden_size=head["dense.bias"].shape[0],
            **settings,
        ),
        body,
    )
    model.head.load_state_dict(head, strict=False)  # shift and scale stay those that do nothing
    if attn_implementation is None:
        read_trees(body)
    model.trust_remote_code = trust_remote_code
    return model.eval()


def _raw_config(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever loads it says what is wrong
    return raw if isinstance(raw, dict) else {}


def _kind(folder: Path, raw: dict[str, Any], foreign: str | None) -> str | None:
    """One of `KINDS`, or None: a checkpoint of ours (or nothing at all, which its loader says)."""
    if foreign is not None and foreign not in KINDS:
        raise InputError(f"foreign must be one of {', '.join(KINDS)}, not {foreign!r}")
    names = raw.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    if not raw or raw.get("model_type") == ProcessRewardConfig.model_type:
        if raw and foreign is not None:
            raise InputError(f"{folder} is a checkpoint of nl2sql-prm; leave --foreign {foreign} out")
        return None
    found = None
    if architecture == VLLM_ARCHITECTURE:
        found = "qwen2.5-math"
    elif architecture == "Qwen2ForPrmModel" or "v_head.summary.weight" in _weight_files(folder, needed=False):
        found = "skywork"
    elif architecture.endswith("ForTokenClassification"):
        found = "trl"
    elif architecture.endswith("ForCausalLM"):
        if foreign in NEXT_TOKEN:
            return foreign
        if foreign is None:
            raise InputError(
                f"{folder} is a plain language model ({architecture}); if it judges steps by + and -, say "
                f"which way: --foreign {' or --foreign '.join(NEXT_TOKEN)}"
            )
    if found is None:
        raise InputError(
            f"{folder}: {architecture or raw.get('model_type')!r} is no process reward model that is known "
            f"here; known are checkpoints of nl2sql-prm, {', '.join(KINDS)}"
        )
    if foreign not in (None, found):
        raise InputError(f"{folder} is a {found} model by its files; leave --foreign {foreign} out")
    return found


def _weight_files(folder: Path, needed: bool = True) -> dict[str, Path]:
    """The file of every weight, by name; safetensors only."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    with readable(folder):
        if index.is_file():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in names.items()}
        if single.is_file():
            with safe_open(single, "pt") as weights:
                return dict.fromkeys(weights.keys(), single)
    if needed:
        raise InputError(
            f"{folder} has no model.safetensors, and pickled weights (.bin) are never read; name a revision "
            "that has it: of many models the Hub's converter (huggingface.co/spaces/safetensors/convert) "
            "opened one as --revision refs/pr/1"
        )
    return {}


def _head(kind: str, folder: Path, files: dict[str, Path], body: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The published head as the weights of a `PRMHead`, float32."""

    def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in files:
            raise InputError(f"{folder}: a {kind} model has the weight {name}, and it is not there")
        with safe_open(files[name], "pt") as weights:
            tensor = weights.get_tensor(name).float()
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{folder}: {name} of a {kind} model has the shape {shape}, not {tuple(tensor.shape)}"
            )
        return tensor

    hidden = body.config.hidden_size
    if kind == "qwen2.5-math":
        two, bias = weight("score.2.weight", (2, hidden)), weight("score.2.bias", (2,))
        return {
            "dense.weight": weight("score.0.weight", (hidden, hidden)),
            "dense.bias": weight("score.0.bias", (hidden,)),
            "out.weight": two[1:] - two[:1],
            "out.bias": bias[1:] - bias[:1],
        }
    if kind == "skywork":
        one, bias = weight("v_head.summary.weight", (1, hidden)), weight("v_head.summary.bias", (1,))
        return _linear(one[0], bias[0])
    if kind == "trl":
        name = "classifier" if "classifier.weight" in files else "score"  # GPT-2's, everybody else's
        two = weight(f"{name}.weight", (2, hidden))
        bias = weight(f"{name}.bias", (2,)) if f"{name}.bias" in files else torch.zeros(2)
        return _linear(two[1] - two[0], bias[1] - bias[0])
    if body.config.model_type not in NEXT_TOKEN_FAMILIES:
        raise InputError(
            f"{folder}: next-token models are read of the families {', '.join(NEXT_TOKEN_FAMILIES)}, and "
            f"this is {body.config.model_type}"
        )
    right, wrong = _sign_ids(kind, load_tokenizer(folder))
    if body.config.tie_word_embeddings:
        rows = body.get_input_embeddings().get_parameter("weight")[[right, wrong]].detach().float()
    elif "lm_head.weight" in files:
        with safe_open(files["lm_head.weight"], "pt") as weights:  # two rows of a large matrix
            rows = torch.cat([weights.get_slice("lm_head.weight")[i : i + 1] for i in (right, wrong)]).float()
    else:
        raise InputError(f"{folder}: a {kind} model has the weight lm_head.weight, and it is not there")
    return _linear(rows[0] - rows[1], torch.zeros(()))


def _sign_ids(kind: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The tokens of + and - as the kind's own code looks them up."""
    if kind == "rlhflow":
        right, wrong = (tokenizer(sign, add_special_tokens=False)["input_ids"][-1] for sign in "+-")
        return right, wrong
    ids = tokenizer("+ -", add_special_tokens=False)["input_ids"]
    if len(ids) != 2:
        raise InputError("the tokenizer of a math-shepherd model must read '+ -' as two tokens")
    return ids[0], ids[1]


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """A linear head as two hidden units: relu(x) - relu(-x) = x."""
    return {
        "dense.weight": torch.stack([weight, -weight]),
        "dense.bias": torch.stack([bias, -bias]),
        "out.weight": torch.tensor([[1.0, -1.0]]),
        "out.bias": torch.zeros(1),
    }


# ---- out


def export_vllm(
    checkpoint: str,
    output: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    base_model: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """`prm export --format vllm`: a checkpoint in the layout of vLLM's `Qwen2ForProcessRewardModel`.

    Adapters are merged (4-bit weights made dense first), the head's standardisation and temperature go into
    its two layers, and the two classes are [0, z], so that their softmax is our sigmoid(z).

    Raises:
        InputError: the model does not fit that layout, or `output` is not empty.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{output} exists already; name a new folder")
    raw = _raw_config(snapshot(checkpoint, revision=revision))
    if raw.get("model_type") == ProcessRewardConfig.model_type:
        _check_fits(checkpoint, ProcessRewardConfig.from_dict(raw))  # before its weights are loaded
    model = load_prm(
        checkpoint,
        dtype=dtype,
        revision=revision,
        base_model_name_or_path=base_model,
        trust_remote_code=trust_remote_code,
    )
    _check_fits(checkpoint, model.config)
    tokenizer = load_tokenizer(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    encoder = encoder_for(model, tokenizer)
    backbone = merged_backbone(model, snapshot(checkpoint, revision=revision))
    state = {f"model.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    state |= folded_head(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        from huggingface_hub import save_torch_state_dict

        save_torch_state_dict(state, work)
        _write_config(work, model, backbone.config)
        tokenizer.save_pretrained(work)
        pooler = _pooler(encoder)
        (work / POOLER_FILE).write_text(json.dumps(pooler) + "\n", encoding="utf-8")
        (work / "README.md").write_text(_readme(folder, model, encoder, pooler), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp's is the owner's alone
        if folder.is_dir():
            folder.rmdir()  # an empty one
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{model.config.base_model_name_or_path} with its head for vLLM -> {output}")
    print(f"how to serve and ask it: {folder / 'README.md'}")


def _check_fits(checkpoint: str, config: ProcessRewardConfig) -> None:
    family = config.base_config.get("model_type")
    refuse = f"{checkpoint} cannot be exported to vLLM: "
    if config.prompt_version != PROMPT_VERSION:
        raise InputError(
            refuse + f"it is a {config.prompt_version} model, with prompts of its own; exported are those "
            "that read ours"
        )
    if family != "qwen2":
        raise InputError(refuse + f"its process reward model stands on qwen2 backbones, and this is {family}")
    if config.score_kind != "prefix":
        raise InputError(
            refuse + f"it was trained with loss {config.loss}, and its scores are products over the steps, "
            "which a server that sees single tokens cannot take; train with loss: bce"
        )
    width = config.head_hidden_size or config.hidden_size
    if width > config.hidden_size:
        raise InputError(
            refuse + f"its head has {width} hidden units, and the layout has room for {config.hidden_size}; "
            "train with head_hidden_size: null"
        )


@torch.no_grad()
def folded_head(model: ProcessRewardModel) -> dict[str, torch.Tensor]:
    """The head as `score.0` and `score.2`, float32: Linear(h, h), ReLU, Linear(h, 2) with the classes [0, z].

    (x - shift) * scale before a linear layer is another linear layer; hidden units that a narrow head lacks
    are zero. A server that casts the folded head to bfloat16 subtracts large numbers from large ones, but on
    states of the spread that the quickstart's head was standardised by, scores moved by 0.001 on average and
    0.007 at most, of which rounding the states alone makes 0.006.
    """
    head, hidden = model.head, model.config.hidden_size
    weight = head.dense.weight.double() * head.scale.double()
    bias = head.dense.bias.double() - weight @ head.shift.double()
    temperature = model.config.score_temperature
    first, first_bias = torch.zeros(hidden, hidden).double(), torch.zeros(hidden).double()
    second, second_bias = torch.zeros(2, hidden).double(), torch.zeros(2).double()
    first[: len(weight)], first_bias[: len(weight)] = weight, bias
    second[1, : len(weight)] = head.out.weight[0].double() / temperature
    second_bias[1] = head.out.bias[0].double() / temperature
    parts = {"0.weight": first, "0.bias": first_bias, "2.weight": second, "2.bias": second_bias}
    return {f"score.{name}": tensor.float() for name, tensor in parts.items()}


def _write_config(folder: Path, model: ProcessRewardModel, backbone: PretrainedConfig) -> None:
    backbone.architectures = [VLLM_ARCHITECTURE]
    backbone.num_labels = 2
    backbone.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("auto_map", "quantization_config", "_name_or_path"):
        raw.pop(name, None)
    # Servers on transformers 4 look for these names, and take a default where they are missing.
    rope = dict(raw.get("rope_parameters") or {})
    raw["rope_theta"] = rope.pop("rope_theta", raw.get("rope_theta"))
    raw["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    raw["dtype"] = raw["torch_dtype"] = model.config.backbone_dtype
    raw[EXPORTED] = {name: getattr(model.config, name) for name in EXPORTED_SETTINGS}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _pooler(encoder: Encoder) -> dict[str, Any]:
    """Which tokens vLLM answers: the step ends, where a token stands there and nowhere else; else all."""
    separator = encoder.tokenizer(encoder.step_separator, add_special_tokens=False)["input_ids"]
    if len(separator) == 1 and separator[0] in encoder.tokenizer.all_special_ids:  # never in the data
        return {"pooling_type": "STEP", "step_tag_id": separator[0]}
    return {"pooling_type": "ALL"}


def _readme(folder: Path, model: ProcessRewardModel, encoder: Encoder, pooler: dict[str, Any]) -> str:
    marked = pooler["pooling_type"] == "STEP"
    config = model.config
    if marked:
        which = (
            f"Each step ends with the special token `{config.step_separator}` (id {pooler['step_tag_id']}), "
            "which stands nowhere else: vLLM gives back that token's two probabilities alone, a pair for "
            "each step."
        )
    else:
        which = (
            f"Each step ends with {config.step_separator!r}, which stands elsewhere in prompts and steps, "
            "too. So vLLM gives back the two probabilities of every token, and the client picks the step "
            "ends. (Without the option, vLLM would look for token 151651, the `<extra_0>` of "
            "Qwen2.5-Math-PRM, and find none. A model trained with a special token as `step_separator` needs "
            "no picking.)"
        )
    return f"""\
# Process reward model for text-to-SQL, in vLLM's layout

Exported by `prm export --format vllm`. `config.json` names the architecture `{VLLM_ARCHITECTURE}`:
a Qwen2 backbone and `score` = Linear, ReLU, Linear to the two classes [0, z]. Their softmax is
(1 - score, score), the score being P(no error up to and including a step). A step below
{config.threshold:.4f} is called wrong ({config.threshold_from}).

## Serve

```bash
vllm serve {shlex.quote(folder.name)} --runner pooling --dtype {config.backbone_dtype} \\
    --pooler-config '{json.dumps(pooler)}'
```

(The same stands in `{POOLER_FILE}`. Older versions call the options `--task reward` and
`--override-pooler-config`. `--dtype float32` gives the scores of `prm score`; bfloat16 moves scores by some
thousandths.)

{which}

## Ask

Send token ids, not text: prompt, each step and each separator are tokenised apart, and a tokenizer given the
whole text would join them elsewhere. `Encoder` makes them as in training.

```python
import json
import urllib.request

from prm import Step, Trace
from prm.traces.encoding import Encoder
from transformers import AutoTokenizer

url, model = "http://localhost:8000/pooling", {folder.name!r}
trace = Trace(
    "How many singers are there?",
    [Step("Count the rows of singer.\\nSELECT COUNT(*) FROM singer")],
    schema="singer(singer_id INTEGER, name TEXT)",
)
encoder = Encoder(
    AutoTokenizer.from_pretrained(model),
    max_length={config.max_trace_length},
    max_completion_length={encoder.max_completion_length},
    step_separator={config.step_separator!r},
)
(encoded,) = encoder.encode([trace], drop_long=False)
body = json.dumps({{"model": model, "input": encoded.input_ids}}).encode()
request = urllib.request.Request(url, body, {{"Content-Type": "application/json"}})
with urllib.request.urlopen(request) as reply:
    pairs = json.load(reply)["data"][0]["data"]
scores = [pair[1] for pair in {"pairs" if marked else "(pairs[end] for end in encoded.step_ends)"}]
```

The layout is that of vLLM's source; what wrote this file has not run vLLM.
"""
