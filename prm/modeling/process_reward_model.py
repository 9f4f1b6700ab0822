"""`ProcessRewardModel`: a decoder backbone and a small MLP that reads its hidden state where a step ends.

Three decisions shape this file.

*Logits at step ends only.* There is no vocabulary head and no logit at other tokens: `forward` takes the
positions of the step ends as flat indices into the token batch and gives one logit for each step of each
trace. A position may be named twice. That makes token trees free: traces which share a prefix share its
tokens, and only `step_ends` knows. Where it can, the backbone reads such trees (`tree_attention.py`).

*A checkpoint holds what was trained, and nothing else.* Frozen backbone: the head. LoRA: adapter and head.
Full: all. The base is named by id and revision. `head.safetensors` is always there, `adapter/` holds PEFT's
own files (at the root, `adapter_config.json` would send the Auto classes to the base model with a random
head).

*The head is float32* whatever the backbone's dtype, also under autocast: it is tiny, and scores near 0 and 1
need it.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib.util
import inspect
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import ModelOutput, cached_file

from prm.errors import InputError
from prm.modeling.hub import hub_reason
from prm.modeling.losses import SCORE_KINDS, scores_from_logits, step_loss
from prm.modeling.products import use_fastest_products
from prm.modeling.sharding import is_cut_up, whole
from prm.modeling.tree_attention import ATTENTION, TreeMask

if TYPE_CHECKING:  # PEFT is slow to import
    from peft import PeftModel

logger = logging.getLogger(__name__)

HEAD_FILE = "head.safetensors"
ADAPTER_FOLDER = "adapter"
UNTRUSTED = " brings code of its own: pass trust_remote_code only if you trust it"
BACKBONES = ("frozen", "lora", "qlora", "full")

# A model on the Hub without safetensors would be sent to a service that converts it, with the user's token.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


class ProcessRewardConfig(PretrainedConfig):
    """What is needed to load a PRM and to read its scores.

    Attributes:
        base_model_name_or_path, base_model_revision: where the backbone's weights come from.
        base_config: the backbone's own configuration, as a dict.
        backbone_layers: the backbone's first layers only, so many of them (None: all).
        quantization_bits: of a qlora backbone's weights, 4 (NF4) or 8 (LLM.int8).
        backbone: how it was trained: frozen, lora, qlora or full; decides which files a checkpoint has.
        backbone_dtype: dtype of the backbone's weights when it was saved; loading uses it unless told
            otherwise.
        head_hidden_size: width of the head's hidden layer (None: the backbone's hidden size).
        loss, score_kind: see `prm.modeling.losses`.
        prompt_version: of the prompts it reads; of a model of others the name of its kind (`foreign.py`).
        step_separator, max_trace_length, max_completion_length: how traces become tokens.
        score_temperature: logits are divided by it before they become scores. (A plain `temperature` or
            `max_length` would pass for a generation setting, which transformers refuses to save here.)
        threshold, threshold_from: a step whose score is below it is called wrong; how it was chosen.
        position_means: share of right steps at each index in the training data (the `position_only`
            baseline).
    """

    model_type = "process_reward_model"

    def __init__(
        self,
        base_model_name_or_path: str | None = None,
        base_model_revision: str | None = None,
        base_config: dict[str, Any] | None = None,
        backbone: str = "frozen",
        quantization_bits: int = 4,
        backbone_layers: int | None = None,
        backbone_dtype: str = "float32",
        head_hidden_size: int | None = None,
        loss: str = "bce",
        score_kind: str = "prefix",
        prompt_version: int | str = 1,
        step_separator: str = "\n",
        max_trace_length: int = 2048,
        max_completion_length: int | None = None,
        score_temperature: float = 1.0,
        threshold: float = 0.5,
        threshold_from: str = "default",
        position_means: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.base_model_name_or_path = base_model_name_or_path
        self.base_model_revision = base_model_revision
        self.base_config = base_config or {}
        self.backbone = backbone
        self.quantization_bits = quantization_bits
        self.backbone_layers = backbone_layers
        self.backbone_dtype = backbone_dtype
        self.head_hidden_size = head_hidden_size
        self.loss = loss
        self.score_kind = score_kind
        self.prompt_version = prompt_version
        self.step_separator = step_separator
        self.max_trace_length = max_trace_length
        self.max_completion_length = max_completion_length
        self.score_temperature = score_temperature
        self.threshold = threshold
        self.threshold_from = threshold_from
        self.position_means = position_means
        kwargs.setdefault("num_labels", 1)
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        # Of some families the dict has another name for it (GPT-2: n_embd), which their class translates.
        return self.base_config.get("hidden_size") or self.base().hidden_size

    def base(self) -> PretrainedConfig:
        """The backbone's configuration as the object of its own class."""
        return AutoConfig.for_model(**copy.deepcopy(self.base_config))


class _Float32Linear(nn.Linear):
    """Computes in float32 even where an engine or `model.to(torch.bfloat16)` has cast its weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class PRMHead(nn.Module):
    """Linear, ReLU, Linear to one logit, in float32: the layout of published process reward heads
    (Qwen2.5-Math-PRM) with a single output.

    Its input is standardised first: the dimensions of a decoder's hidden state differ in scale by orders of
    magnitude, and one learning rate for all of them leaves most unused (benchmarks/layers.py compares).
    `shift` and `scale` are buffers, set once from training states by `standardise`; before that they do
    nothing.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, hidden_size: int, head_hidden_size: int | None) -> None:
        super().__init__()
        width = hidden_size if head_hidden_size is None else head_hidden_size
        self.dense = _Float32Linear(hidden_size, width, dtype=torch.float32)
        self.out = _Float32Linear(width, 1, dtype=torch.float32)
        self.register_buffer("shift", torch.zeros(hidden_size))
        self.register_buffer("scale", torch.ones(hidden_size))
        # Every step begins near probability 1/2. Smaller still (1e-3), and an adapter below sees next to no
        # gradient in its first steps, which costs a run of fifty steps some step_auc.
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, hidden_size) in any float dtype -> (…) float32 logits."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = (hidden.float() - self.shift.float()) * self.scale.float()
            return self.out(torch.relu(self.dense(hidden))).squeeze(-1)

    @property
    def is_standardised(self) -> bool:
        return bool((self.scale != 1).any())

    @torch.no_grad()
    def standardise(self, states: torch.Tensor) -> None:
        """Take mean and deviation of the input from `states`, (n, hidden_size)."""
        states = states.float()
        deviation = states.std(0, unbiased=False)
        if deviation.mean() <= 1e-6 * states.abs().mean():  # all the same: nothing to measure a scale by
            return
        self.shift.copy_(states.mean(0))
        # A dimension that hardly moves is noise: it is not blown up beyond a hundredth of the usual
        # deviation.
        self.scale.copy_(1 / deviation.clamp(min=max(float(deviation.mean()) / 100, 1e-6)))


@dataclass
class PRMOutput(ModelOutput):
    """`loss` (where labels were given) and `logits` (n_traces, n_steps), one for each step end; what stands
    at padding means nothing.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class ProcessRewardModel(PreTrainedModel):
    """A backbone from `AutoModel` and a `PRMHead`; see the module docstring.

    Make one with `from_backbone` (a new head on a base model) or `from_pretrained` (a saved checkpoint). Both
    also accept Hub ids. `AutoModelForTokenClassification.from_pretrained` loads the same checkpoints.
    """

    config: ProcessRewardConfig
    config_class = ProcessRewardConfig
    base_model_prefix = "backbone"
    # Tells Trainer that the loss is a sum over num_items_in_batch, so that accumulation does not change it.
    accepts_loss_kwargs = True
    trust_remote_code = False  # whether the base model's own code may run: its tokenizer's, too
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self, config: ProcessRewardConfig, backbone: PreTrainedModel | PeftModel | None = None
    ) -> None:
        super().__init__(config)
        self.backbone: PreTrainedModel | PeftModel = (
            backbone if backbone is not None else AutoModel.from_config(config.base())
        )
        use_fastest_products(self.backbone)
        self.head = PRMHead(self.backbone.config.hidden_size, config.head_hidden_size)
        # The layers that sharded training (FSDP) wraps are the backbone's.
        self._no_split_modules = getattr(self.backbone, "_no_split_modules", None)
        self.config.dtype = None  # the parts have dtypes of their own; `backbone_dtype` and float32 say which

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the backbone comes with weights and the head initialises itself."""

    @property
    def device(self) -> torch.device:
        return self.head.out.weight.device

    @property
    def longest(self) -> int | None:
        """How many tokens the backbone can read, where it has a limit."""
        config = self.backbone.config
        return getattr(config, "max_position_embeddings", None) or getattr(
            config, "max_seq_len", None
        )  # MPT's

    @property
    def reads_trees(self) -> bool:
        """Whether `forward` takes `subtree_ends`: see `read_trees`."""
        return self.backbone.config._attn_implementation == ATTENTION

    def train(self, mode: bool = True) -> ProcessRewardModel:
        if self.config.backbone != "frozen":
            super().train(mode)
            return self
        # No dropout in features that nothing adapts to. (Trainer calls this in every step, and a backbone has
        # hundreds of modules to tell.)
        if self.backbone.training:
            self.backbone.eval()
        self.training = mode
        self.head.train(mode)
        return self

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        step_ends: torch.Tensor | None = None,
        subtree_ends: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        step_features: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | float | None = None,
        class_weights: tuple[float, float] | None = None,
    ) -> PRMOutput:
        """Logits at step ends.

        Args:
            input_ids: (rows, tokens).
            attention_mask: (rows, tokens), 1 = may be seen, 0 = padding.
            position_ids: (rows, tokens); needed with trees, where the position is the depth.
            step_ends: (n_traces, n_steps) flat indices into `input_ids.view(-1)`; -1 = no such step.
            subtree_ends: (1, tokens) in place of the mask, where the row holds token trees (see
                `prm.traces.tree`) and the model `reads_trees`.
            labels: (n_traces, n_steps) in [0, 1]; -100 = counts in no loss.
            step_features: (n_traces, n_steps, hidden_size) instead of tokens, where the backbone is frozen
                and its states at step ends are known already.
            num_items_in_batch, class_weights: see `prm.modeling.losses.step_loss`.
        """
        if step_features is None:
            if input_ids is None or step_ends is None:
                raise ValueError("forward needs input_ids and step_ends, or step_features")
            step_features = self.features(
                input_ids=input_ids,
                step_ends=step_ends,
                attention_mask=attention_mask,
                position_ids=position_ids,
                subtree_ends=subtree_ends,
            )
        logits = self.head(step_features)
        loss = None
        if labels is not None:
            loss = step_loss(
                logits,
                labels,
                loss=self.config.loss,
                num_items=num_items_in_batch,
                class_weights=class_weights,
            )
        return PRMOutput(loss=loss, logits=logits)

    def features(
        self,
        *,
        input_ids: torch.Tensor,
        step_ends: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        subtree_ends: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Backbone states at step ends, (n_traces, n_steps, hidden_size), from the inputs of `forward`; rows
        of `step_ends` -1 hold any state.
        """
        if subtree_ends is not None:
            if not self.reads_trees:
                raise ValueError("this backbone reads no token trees; collate with share=False")
            attention_mask = TreeMask(subtree_ends.view(-1)).as_argument()
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.backbone != "frozen"):
            return self.states(step_ends.clamp(min=0), **inputs)

    def states(self, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """The backbone's last hidden states of some tokens, (*tokens.shape, hidden_size), in its dtype.

        The last layer's MLP, most of that layer's arithmetic, is computed for them alone: nobody reads the
        others.

        Args:
            tokens: flat indices into `input_ids.view(-1)`, of any shape; one may be named twice.
            inputs: what the backbone takes: `input_ids` (rows, tokens), `attention_mask`, `position_ids`.
        """
        learns = torch.is_grad_enabled() and self.training
        # A layer that is computed again in backward would find the hooks gone.
        again = learns and getattr(self.backbone, "is_gradient_checkpointing", False)
        with contextlib.nullcontext() if again else _last_mlp_for(self.backbone, tokens.flatten()):
            hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        return hidden.reshape(-1, hidden.shape[-1])[tokens]

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """P(no error up to and including each step), float64, from (n_traces, n_steps) logits."""
        return scores_from_logits(
            logits, score_kind=self.config.score_kind, temperature=self.config.score_temperature
        )

    # ---- making, loading, saving ----

    @classmethod
    def from_backbone(
        cls,
        base: str | PreTrainedModel,
        *,
        backbone: str = "full",
        quantization_bits: int = 4,
        backbone_layers: int | None = None,
        revision: str | None = None,
        dtype: str | torch.dtype = torch.float32,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        peft_config: Any = None,
        **config: Any,
    ) -> ProcessRewardModel:
        """A new head on a base model.

        Args:
            base: a Hub id, a folder, or a loaded transformers model; of a model with a head of its own
                (causal LM, token classification) the headless part is taken.
            backbone: frozen, lora, qlora or full; lora and qlora want `peft_config`.
            quantization_bits: of a qlora backbone, 4 or 8. With 8 the activations are quantised, too.
            attn_implementation: one of transformers'. By default the backbone reads token trees if it can
                (`reads_trees`); any choice made here, "sdpa" too, gives each trace a row of its own.
            backbone_layers: keep only the first so many layers. The middle of a decoder often says more about
                a step than its end, which is about the next token; and half the layers cost half the time.
            config: further fields of `ProcessRewardConfig` (`loss`, `head_hidden_size`, …).
        """
        if backbone not in BACKBONES:
            raise InputError(f"backbone must be one of {', '.join(BACKBONES)}, not {backbone!r}")
        if (peft_config is not None) != (backbone in ("lora", "qlora")):
            raise InputError(
                f"backbone: {backbone} goes {'with' if peft_config is None else 'without'} a peft_config"
            )
        if config.get("loss", "bce") not in SCORE_KINDS:
            raise InputError(f"loss must be one of {', '.join(SCORE_KINDS)}, not {config['loss']!r}")
        width = config.get("head_hidden_size")
        if width is not None and width < 1:
            raise InputError(f"head_hidden_size must be at least 1, not {width}")
        name = base.config._name_or_path if isinstance(base, PreTrainedModel) else base
        name = os.path.abspath(name) if os.path.isdir(name) else name
        model: PreTrainedModel | PeftModel
        if isinstance(base, PreTrainedModel):
            if backbone_layers is not None:
                raise InputError("backbone_layers goes with the name of a base model, not with a loaded one")
            model = cast(PreTrainedModel, base.base_model)  # transformers calls it a Module
        else:
            revision = _commit(name, revision) or revision
            model = load_base(
                name,
                given_as="model_name_or_path",
                revision=revision,
                layers=backbone_layers,
                dtype=dtype,
                bits=quantization_bits if backbone == "qlora" else None,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
            )
        settings: dict[str, Any] = {
            "base_model_name_or_path": name,
            "base_model_revision": revision or getattr(model.config, "_commit_hash", None),
            "base_config": model.config.to_dict(),
            "backbone": backbone,
            "quantization_bits": quantization_bits,
            "backbone_layers": backbone_layers,
            # Of 4-bit weights the dtype of the arithmetic: `model.dtype` is that of the norms.
            "backbone_dtype": str(dtype if backbone == "qlora" else model.dtype).removeprefix("torch."),
            "score_kind": SCORE_KINDS[config.get("loss", "bce")],
        }
        if attn_implementation is None:
            read_trees(model)
        if backbone == "frozen":
            model.requires_grad_(False)
        elif peft_config is not None:
            model = _add_adapter(model, peft_config)
        prm = cls(ProcessRewardConfig(**settings | config), model)
        prm.trust_remote_code = trust_remote_code
        return prm

    @classmethod
    def from_pretrained(  # type: ignore[override]  # of options it names its own
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: ProcessRewardConfig | None = None,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        base_model_name_or_path: str | None = None,
        is_trainable: bool = False,
        quantize: bool = True,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        token: str | bool | None = None,
        local_files_only: bool = False,
        torch_dtype: str | torch.dtype | None = None,
        **others: Any,
    ) -> ProcessRewardModel:
        """Load a checkpoint: a folder, or the id of a Hub repository.

        Args:
            dtype: of the backbone; "auto" = the dtype with which it was saved, so that scores are the same
                bits. `torch_dtype` is its former name.
            base_model_name_or_path: where the base model is now, if not where the checkpoint says.
            is_trainable: keep a LoRA adapter trainable.
            quantize: False puts the adapter of a qlora checkpoint on the unquantised base: more memory, no
                bitsandbytes, and scores that differ by what quantising changes.
            others: what else `from_pretrained` of transformers takes, and its Auto classes pass on: without
                effect here, which a warning says of what was given.

        Raises:
            TypeError: an argument that nobody knows.
            InputError: no such checkpoint, a file of it is missing or broken, or its base model cannot be
                found.
        """
        _check_arguments(others)
        if torch_dtype is not None and dtype in (None, "auto"):
            dtype = torch_dtype
        folder = checkpoint_folder(
            pretrained_model_name_or_path, revision=revision, token=token, local_files_only=local_files_only
        )
        if not isinstance(config, ProcessRewardConfig):
            config = _read_config(folder)
        if config.backbone in ("lora", "qlora"):  # PEFT would look for a missing file on the Hub
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                if not (folder / ADAPTER_FOLDER / name).is_file():
                    raise InputError(
                        f"{folder / ADAPTER_FOLDER / name} is missing; copy the checkpoint again"
                    )
        quantized = config.backbone == "qlora" and quantize
        own = config.backbone == "full"  # the backbone's weights are in the checkpoint itself
        model: PreTrainedModel | PeftModel
        model = load_base(
            str(folder) if own else base_model_name_or_path or config.base_model_name_or_path or "",
            given_as=None if own else "base_model_name_or_path (--base-model)",
            revision=None if own or base_model_name_or_path else config.base_model_revision,
            layers=None if own else config.backbone_layers,
            dtype=config.backbone_dtype if dtype in (None, "auto") else dtype,
            bits=config.quantization_bits if quantized else None,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            config=config.base() if own else None,
            token=token,
            local_files_only=local_files_only,
        )
        if model.config.hidden_size != config.hidden_size:
            raise InputError(
                f"{model.config._name_or_path}: this backbone has hidden size {model.config.hidden_size}, "
                f"the checkpoint {folder} was trained on one with {config.hidden_size}; give that one as "
                "base_model_name_or_path (--base-model)"
            )
        if attn_implementation is None:
            read_trees(model)
        with readable(folder):
            if config.backbone in ("lora", "qlora"):
                from peft import PeftModel

                from prm.modeling.adapters import lean_adapters

                with warnings.catch_warnings():
                    # PEFT would go on with a random weight …
                    warnings.filterwarnings("error", message="Found missing adapter keys")
                    # … and transformers warns it of a later version: no business of whoever loads a model.
                    warnings.filterwarnings("ignore", category=FutureWarning)
                    model = PeftModel.from_pretrained(
                        model, folder / ADAPTER_FOLDER, is_trainable=is_trainable
                    )
                lean_adapters(model)
            elif config.backbone == "frozen":
                model.requires_grad_(False)
            prm = cls(config, model)
            prm.head.load_state_dict(load_file(folder / HEAD_FILE))
        prm.trust_remote_code = trust_remote_code
        return prm.eval()

    def load_checkpoint(self, folder: str | os.PathLike[str]) -> None:
        """Put the weights of a checkpoint of this same model into it (resume, best model); the base stays."""
        folder = Path(folder)
        with readable(folder):
            self._load_weights(folder)

    def _load_weights(self, folder: Path) -> None:
        with whole(self.head.parameters(), change=True):
            self.head.load_state_dict(load_file(folder / HEAD_FILE, device=str(self.device)))
        if self.config.backbone in ("lora", "qlora"):
            from peft import load_peft_weights, set_peft_model_state_dict

            adapter = [weight for weight in self.backbone.parameters() if weight.requires_grad]
            with whole(adapter, change=True):
                set_peft_model_state_dict(self.backbone, load_peft_weights(str(folder / ADAPTER_FOLDER)))
        elif self.config.backbone == "full":
            saved = AutoModel.from_pretrained(
                folder, config=self.config.base(), dtype=self.backbone.dtype, use_safetensors=True
            )
            weights = dict(self.backbone.named_parameters())
            if not any(is_cut_up(weight) for weight in weights.values()):
                self.backbone.load_state_dict(saved.state_dict())
                return
            for name, source in saved.named_parameters():  # one at a time: nothing is whole for long
                with torch.no_grad(), whole([source, weights[name]], change=True):
                    weights[name].copy_(source)

    def save_pretrained(  # type: ignore[override]  # of options it names its own
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write the checkpoint: config, head, and the adapter or backbone where it was trained.

        `state_dict` is the gathered one of a sharded run (keys as in `self.state_dict()`).
        """
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        parts: dict[str, dict[str, torch.Tensor] | None] = {"backbone": None, "head": None}
        if state_dict is not None:
            parts = {
                part: {
                    k.removeprefix(f"{part}."): v for k, v in state_dict.items() if k.startswith(f"{part}.")
                }
                for part in parts
            }
        if self.config.backbone == "full":
            self.backbone.save_pretrained(str(folder), state_dict=parts["backbone"])
            (folder / "config.json").unlink()  # ours is written below; the base's own is `base_config` in it
        elif self.config.backbone in ("lora", "qlora"):
            self.backbone.save_pretrained(str(folder / ADAPTER_FOLDER), state_dict=parts["backbone"])
            (folder / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # the card stands at the root
        head = parts["head"] or self.head.state_dict()
        head = {name: tensor.detach().float().cpu().contiguous() for name, tensor in head.items()}
        save_file(head, folder / HEAD_FILE, metadata={"format": "pt"})
        if self.config.backbone != "qlora":  # whose weights are 4-bit; its dtype is that of the arithmetic
            self.config.backbone_dtype = str(self.backbone.dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", folder.name)
            self.push_to_hub(repo_id, **kwargs)


def load_base(
    name: str,
    *,
    given_as: str | None,
    revision: str | None,
    layers: int | None,
    dtype: str | torch.dtype,
    bits: int | None,
    attn_implementation: str | None,
    trust_remote_code: bool,
    config: PretrainedConfig | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> PreTrainedModel:
    """A headless model; with `config`, from a checkpoint of ours, which must hold every weight.

    `given_as` is what the caller calls its name, for the mend of an error.

    Raises:
        InputError: there is no such model, a file is broken, or bitsandbytes is missing for `bits` (4 or 8).
    """
    if not name:
        raise InputError(
            "the checkpoint does not say which base model it stands on; give its folder or Hub id as "
            f"{given_as}"
        )
    if os.path.isabs(name) and not os.path.isdir(name):
        raise InputError(f"the base model {name} is gone; give its folder or Hub id as {given_as}")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype) if isinstance(dtype, str) else dtype}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if config is not None:
        options["config"] = config
    if bits is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError(
                "backbone: qlora needs bitsandbytes, which is not installed: pip install 'nl2sql-prm[qlora]'"
            )
        from peft import prepare_model_for_kbit_training
        from transformers import BitsAndBytesConfig

        if bits == 8:
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
            # It says of every layer in every forward that activations are rounded to float16 first.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        else:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=options["dtype"],
            )
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(_worth_reporting)
    try:
        if layers is not None:
            options["config"] = _first_layers(
                AutoConfig.from_pretrained(
                    name,
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                    token=token,
                    local_files_only=local_files_only,
                ),
                layers,
            )
        model, info = AutoModel.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            token=token,
            local_files_only=local_files_only,
            use_safetensors=True,  # a pickle may run anything
            output_loading_info=True,
            **options,
        )
    except InputError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(f"{name}{UNTRUSTED}") from error
        if "use_safetensors" in str(error):
            raise InputError(
                f"{name}: there is no model.safetensors, and weights in pickles (pytorch_model.bin) are not "
                "read; save the model as safetensors"
            ) from error
        mend = f"; give its folder or Hub id as {given_as}" if given_as else ""
        raise InputError(f"cannot load the model {name} ({_reason(error)}){mend}") from error
    finally:
        log.removeFilter(_worth_reporting)
    if config is not None and info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"{name}: {len(missing)} weights are missing ({missing[0]} …); copy the checkpoint again"
        )
    if bits is not None:
        for module in model.modules():
            # On CPUs with AVX512-BF16, a forward without gradients would repack the weights in place, and
            # every gradient after it would be wrong.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        # Norms and embeddings in float32, in training and afterwards alike: else the scores would change.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def _commit(name: str, revision: str | None) -> str | None:
    """The commit on the Hub that a model's branch (None: the main one) is at now. The branch moves, and a
    checkpoint must find these very weights again. None for a folder.

    Raises:
        InputError: the Hub does not give the model.
    """
    if not name or os.path.isabs(name) or os.path.isdir(name):
        return None
    try:
        cached = cached_file(name, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the model {name} ({_reason(error)}); give its folder or Hub id as "
            "model_name_or_path"
        ) from error
    assert cached is not None  # else it has raised
    file = Path(cached)
    return file.parent.name if file.parent.parent.name == "snapshots" else None  # so does the cache name them


def load_tokenizer(path_or_id: str | os.PathLike[str], **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id; `kwargs` as in `ProcessRewardModel.from_pretrained`.

    Raises:
        InputError: there is none, or it is broken.
    """
    names = ("revision", "token", "local_files_only", "trust_remote_code")
    try:
        # Without its files, AutoTokenizer would make up an empty tokenizer from the kind of the model.
        if os.path.isdir(path_or_id) and not (Path(path_or_id) / "tokenizer_config.json").is_file():
            raise FileNotFoundError("tokenizer_config.json is missing")
        return AutoTokenizer.from_pretrained(path_or_id, **{k: kwargs[k] for k in names if k in kwargs})
    except Exception as error:  # broken files surface as whatever the tokenizer's own reader raises
        if "trust_remote_code" in str(error):
            raise InputError(f"{path_or_id}{UNTRUSTED}") from error
        reason = f"cannot load the tokenizer ({_reason(error)})"
        raise InputError(f"{path_or_id}: {reason}; save the base model's tokenizer there") from error


def merged_backbone(model: ProcessRewardModel, folder: Path) -> PreTrainedModel:
    """The backbone of a checkpoint with its adapter merged in, as plain weights; `model` is used up.

    4-bit weights cannot hold the sum. They are made dense first: the adapter learnt to add to what they stand
    for, not to what they were before.
    """
    backbone: Any = model.backbone  # of an adapted one PEFT finds these methods by name
    if model.config.backbone == "lora":
        return backbone.merge_and_unload()
    if model.config.backbone == "qlora":
        from peft import PeftModel

        dense = backbone.unload().dequantize()
        return PeftModel.from_pretrained(dense, folder / ADAPTER_FOLDER).merge_and_unload()
    return backbone


def _first_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same decoder with its first `layers` layers; the weights of the others are never read."""
    if not 1 <= layers <= config.num_hidden_layers:
        raise InputError(f"backbone_layers must lie between 1 and {config.num_hidden_layers}, not {layers}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config


def _worth_reporting(record: logging.LogRecord) -> bool:
    """Not the report of a load that only left weights over: every causal LM has a vocabulary head."""
    message = record.getMessage()
    return "LOAD REPORT" not in message or "MISSING" in message or "MISMATCH" in message


def read_trees(model: PreTrainedModel) -> None:
    """Let the backbone's attention be `prm.modeling.tree_attention`, if that is all that tells it who sees
    whom: full attention in every layer, of the common kind.

    Models outside transformers' common attention interface (ALiBi, state-space layers) read the order of the
    tokens from elsewhere than mask and positions; sliding windows count tokens in the row; and capped scores
    are no softmax that blocks could be put together to.
    """
    config = model.config
    kinds = getattr(config, "layer_types", None)
    full = (
        all(kind == "full_attention" for kind in kinds) if kinds else not getattr(config, "sliding_window", 0)
    )
    common = getattr(model, "_supports_attention_backend", False) and config._attn_implementation == "sdpa"
    if full and common and not getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation(ATTENTION)


@contextlib.contextmanager
def _last_mlp_for(backbone: nn.Module, tokens: torch.Tensor) -> Iterator[None]:
    """Let the last decoder layer's MLP see these tokens (n,) alone; to the others it adds nothing. Layers
    without an `mlp` see all."""
    base = getattr(backbone, "get_base_model", lambda: backbone)()  # under adapters
    layers = getattr(base, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if mlp is None or not len(tokens):
        yield
        return
    tokens = tokens.sort().values
    first = torch.cat([tokens.new_ones(1, dtype=torch.bool), tokens[1:] != tokens[:-1]])
    shape, thread = torch.Size(), threading.get_ident()

    def narrow(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        nonlocal shape
        if threading.get_ident() != thread:
            return None  # somebody else's forward
        shape = inputs[0].shape
        return (inputs[0].flatten(0, -2)[None, tokens], *inputs[1:])

    def widen(_: nn.Module, __: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        own = output[0] if isinstance(output, tuple) else output  # of mixtures: (states, router's scores)
        own = own.flatten(0, -2) * first[:, None]  # a token that is named twice counts once
        wide = own.new_zeros(shape[:-1].numel(), own.shape[-1]).index_add(0, tokens, own).view(shape)
        return (wide, *output[1:]) if isinstance(output, tuple) else wide

    hooks = [mlp.register_forward_pre_hook(narrow), mlp.register_forward_hook(widen)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_adapter(model: PreTrainedModel, peft_config: Any) -> PeftModel:
    """Wrap the backbone by PEFT; a config made for a token classifier is adapted, for the head is ours."""
    from peft import get_peft_model

    from prm.modeling.adapters import lean_adapters

    peft_config = copy.deepcopy(peft_config)
    # PEFT's own token-classification wrapper would look for a classifier inside the backbone and train a
    # second one.
    peft_config.task_type = "FEATURE_EXTRACTION"
    names = [n for n in peft_config.modules_to_save or [] if n not in ("score", "classifier")]
    peft_config.modules_to_save = names or None
    adapted = get_peft_model(model, peft_config)
    lean_adapters(adapted)
    return adapted


#: Arguments of transformers' `from_pretrained` that do nothing for a model put together by ours …
_WITHOUT_EFFECT = {
    "allow_all_kernels", "cache_dir", "device_map", "device_mesh", "disable_mmap", "distributed_config",
    "experts_implementation", "force_download", "fusion_config", "generation_config", "gguf_file",
    "ignore_mismatched_sizes", "kernel_config", "key_mapping", "low_cpu_mem_usage", "max_memory",
    "offload_buffers", "offload_folder", "output_loading_info", "proxies", "quantization_config",
    "state_dict", "subfolder", "tp_plan", "tp_size", "tqdm_class", "use_kernels", "use_safetensors",
    "variant", "weights_only",
}  # fmt: skip
#: … and those that its Auto classes and pipelines give of their own accord.
_FROM_AUTO = {"_commit_hash", "_from_auto", "_from_pipeline", "adapter_kwargs", "adapter_name"}


def _check_arguments(others: Mapping[str, Any]) -> None:
    """Warn of what has no effect; raises TypeError for a name that neither transformers nor we know."""
    for name in others.keys() - _WITHOUT_EFFECT - _FROM_AUTO:
        known = inspect.signature(ProcessRewardModel.from_pretrained).parameters.keys() | _WITHOUT_EFFECT
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"from_pretrained got an unknown argument {name!r}{hint}")
    idle = sorted(name for name in others.keys() & _WITHOUT_EFFECT if others[name] is not None)
    if idle:
        logger.warning("%s: no effect on a process reward model", ", ".join(idle))


def snapshot(path: str | os.PathLike[str], **hub: Any) -> Path:
    """The folder itself, or what the Hub has under that id, but no pickles."""
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{path} is a file; name the checkpoint's folder")
        if folder.is_absolute() or str(path).count("/") > 1 or str(path).startswith("."):
            raise InputError(f"{path}: no such checkpoint folder")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(str(path), ignore_patterns=["*.bin", "*.pt", "*.pth"], **hub))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f"{path}: no such folder, and the Hub does not give it ({hub_reason(error)})"
            ) from error
    return folder


def checkpoint_folder(path: str | os.PathLike[str], **hub: Any) -> Path:
    folder = snapshot(path, **hub)
    for name in ("config.json", HEAD_FILE):
        if not (folder / name).is_file():
            inside = folder / "checkpoint"
            mend = f"name {inside}" if (inside / name).is_file() else "name a folder that training wrote"
            raise InputError(f"{folder} is no PRM checkpoint: {name} is missing; {mend}")
    return folder


def _read_config(folder: Path) -> ProcessRewardConfig:
    file = folder / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({_reason(error)}); copy the checkpoint again", file=str(file)
        ) from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind != ProcessRewardConfig.model_type:
        raise InputError(
            f"is that of a {kind!r} model, not of a process reward model; name a folder that training wrote",
            file=str(file),
        )
    config = ProcessRewardConfig.from_dict(raw)
    if config.backbone not in BACKBONES or config.score_kind not in SCORE_KINDS.values():
        raise InputError(
            f"backbone {config.backbone!r} with scores of kind {config.score_kind!r} is unknown to this "
            "version; install a newer nl2sql-prm",
            file=str(file),
        )
    return config


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Broken or foreign weights in a checkpoint folder are bad input."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UserWarning) as error:
        raise InputError(
            f"cannot load the checkpoint {folder} ({_reason(error)}); copy it again, or train it anew"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what an exception says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


AutoConfig.register(ProcessRewardConfig.model_type, ProcessRewardConfig)
AutoModelForTokenClassification.register(ProcessRewardConfig, ProcessRewardModel)
