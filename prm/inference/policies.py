"""The models that write answers: one small interface, and the two ways to reach a model.

A *policy* is asked with `Request`s: a prompt, what the answer has said so far (`prefix`, "" for a new
answer), a seed and how many samples. It gives back what follows the prefix. Everything else (what a good
prompt is, how an answer is cut into steps, whether its SQL is right) is not its business.

| class | model | how a prefix is continued |
|---|---|---|
| `TransformersPolicy` | a causal LM in this process | as tokens behind the chat template |
| `ServerPolicy`, api `chat` | an OpenAI-compatible server | as an open assistant message: vLLM, SGLang … |
| the same, api `chat-ask` | | asked for in words: any server, OpenAI's own too |
| the same, api `completions` | | as plain text: base models |

What people ask policies for here is an answer in steps: `answer_prompt` asks for one, `prefix_text` renders
its first steps, `continued` puts steps and a completion together.

A transformers policy computes a prompt once for all samples of it, and each sample has a random stream of its
own, so that a sample depends on its request alone and not on what else was in its batch: a run that is broken
off and resumed gives what an unbroken one gives. Of a server as much can be hoped for; it is sent the seed.

torch and transformers are imported when a `TransformersPolicy` is made: a server needs neither.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import json
import os
import queue
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from prm import __version__
from prm.errors import InputError
from prm.traces.answer import Answer, AnswerStep, split_answer
from prm.traces.prompting import prompt_text
from prm.traces.trace import Step, Trace

#: Where a model that completes plain text has begun a question of its own.
STOPS = ("\nQuestion:", "\nSchema:")
APIS = ("chat", "chat-ask", "completions")
MAX_RESPONSE_BYTES = 64 << 20
#: Seconds to wait after a first failure; the next ones double it.
BACKOFF = 1.0


@dataclass(frozen=True)
class Request:
    """Ask for `n` samples of what follows `prefix` in the answer to `prompt`.

    With `stop` a sample ends behind the first `stop` that it writes after anything else than white space: one
    step. `greedy` takes the likeliest tokens and `max_new_tokens` as many as that, whatever the policy's
    `Sampling` says.
    """

    prompt: str
    prefix: str = ""
    seed: int = 0
    n: int = 1
    stop: str | None = None
    greedy: bool = False
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """`text` follows the request's prefix; `cut` says that it ended for want of tokens, `stopped` that it
    ends with the request's `stop`; `tokens` were made."""

    text: str
    tokens: int = 0
    cut: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Answered:
    """The `n` completions of a request, and the tokens that its prompt had."""

    completions: list[Completion]
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """A request without an answer. `refused`: the model cannot take it, now or later (too long, say)."""

    why: str
    refused: bool


class Policy(Protocol):
    """`name` is written into what the policy made; `width` requests at a time keep it busy. `remote`: they
    are computed elsewhere, so that one by one from `width` threads they come as fast as all at once."""

    name: str
    width: int
    remote: bool

    def settings(self) -> dict[str, Any]:
        """What beside the request decides the answers; holds no secrets."""

    def answer(self, requests: Sequence[Request]) -> Generator[tuple[int, Answered | Failed], None, None]:
        """(index of the request, what came of it), in the order in which they come."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: `temperature` 0 takes the likeliest, `top_p` draws from the likeliest share."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise InputError(f"--temperature must be a number of at least 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p must be more than 0 and at most 1, not {self.top_p}")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens must be at least 1, not {self.max_new_tokens}")


def trimmed(text: str, prefix: str) -> str:
    """A completion without what is not its own: an echo of the prefix, questions that follow the answer."""
    if prefix.strip() and text.lstrip().startswith(prefix.strip()):
        text = text.lstrip()[len(prefix.strip()) :]
    ends = [at for stop in STOPS if (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def through_stop(text: str, stop: str) -> str | None:
    """`text` up to and with the first `stop` behind anything else than white space; None where it has
    none."""
    at = text.find(stop, len(text) - len(text.lstrip()))
    return None if at < 0 else text[: at + len(stop)]


# --- answers in steps ---------------------------------------------------------------------------------------

#: How the steps of an answer are written: a sentence and its SQL, as `prm build` writes them, or CTEs alone.
FORMS = ("sentences", "cte")
PROMPT_FORM_VERSION = 1

_INSTRUCTIONS = {
    "sentences": """\
Answer the question with SQLite, in small steps. A step is one sentence that says what it does and, on the
next line, its SQL: name AS (SELECT ...) for a part that later steps read by its name, and in the last step
the final SELECT. Leave one blank line between steps and write nothing else. An example for another database:

Keep the rows of book where pages is greater than 300.
long_books AS (SELECT author_id FROM book WHERE pages > 300)

Count the rows of long_books for each author_id.
SELECT author_id, COUNT(*) FROM long_books GROUP BY author_id

""",
    "cte": """\
Answer the question with one SQLite statement, written as a chain of small CTEs, one for each step of the
reasoning, and a final SELECT. Leave one blank line between them and write nothing else. An example for
another database:

WITH long_books AS (SELECT author_id FROM book WHERE pages > 300),

books_by_author AS (SELECT author_id, COUNT(*) AS books FROM long_books GROUP BY author_id)

SELECT author_id FROM books_by_author WHERE books > 2

""",
}


def answer_prompt(trace: Trace, form: str = "sentences") -> str:
    """The prompt that asks for an answer to the trace's question, in one of `FORMS`."""
    return _INSTRUCTIONS[form] + prompt_text(trace)


def form_of(steps: Sequence[Step]) -> str:
    """In which of `FORMS` steps are written."""
    return (
        "cte"
        if all(step.sql is not None and step.text.strip() == step.sql.strip() for step in steps)
        else "sentences"
    )


def prefix_text(steps: Sequence[Step], form: str) -> str:
    """The beginning of an answer that has these steps; "" for none."""
    if not steps:
        return ""
    if form == "cte":
        return "WITH " + ",\n\n".join(step.text.strip() for step in steps)
    return "".join(f"{step.text.strip()}\n\n" for step in steps)


def answer_steps(answer: Answer, form: str) -> list[Step]:
    """The steps of a model's answer, as a trace holds them."""
    if form == "cte":
        return [Step(step.sql, sql=step.sql) for step in answer.steps]
    return [Step(f"{step.sentence}\n{step.sql}".strip(), sql=step.sql) for step in answer.steps]


class StartsOver(Exception):
    """A completion writes its prefix anew, differently: it says nothing of the prefix that it was given."""


def continued(prefix: Sequence[Step], completion: Completion) -> str | None:
    """The SQL of an answer that begins with the steps `prefix` and goes on with `completion`; None: no whole
    one.

    Raises:
        StartsOver: the completion has other CTEs of the same names.
    """
    answer = split_answer(completion.text)
    if answer is None or not answer.whole or (completion.cut and not answer.closed):
        return None
    given = [part for step in prefix for part in _ctes(step)]
    new = answer.steps
    if [_squeezed(step) for step in new[: len(given)]] == [_squeezed(step) for step in given]:
        new = new[len(given) :]  # it says again what it was given, and then goes on
    names = {step.name.lower() for step in given}
    if any(step.name.lower() in names for step in new):
        raise StartsOver
    return Answer([*given, *new], why="", recursive=answer.recursive).sql


def _ctes(step: Step) -> list[AnswerStep]:
    answer = split_answer(step.sql if step.sql is not None else step.text)
    return [] if answer is None else [part for part in answer.steps if part.name]


def _squeezed(step: AnswerStep) -> str:
    return " ".join(step.sql.split())


# --- a model in this process --------------------------------------------------------------------------------


class TransformersPolicy:
    """A causal LM of transformers, on the accelerator where there is one.

    Batches hold `batch_size` samples, of one prompt or several (padded on the left). The keys and values of a
    prompt are computed once and shared by its samples, and kept (up to `cache_bytes`, those used last) for
    requests that go on with another prefix. Prompts go through the tokenizer's chat template where it has
    one. Text that looks like a special token is text."""

    remote = False

    def __init__(
        self,
        model: str,
        sampling: Sampling,
        *,
        batch_size: int = 16,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        cache_bytes: int = 1 << 30,
    ) -> None:
        """Load `model`, a folder or Hub id.

        Raises:
            InputError: it cannot be loaded, or is no causal LM.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model, **options)
            self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **options)
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot be loaded as a causal language model: {_one_line(error)}", file=str(model)
            ) from None
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model.to(device).eval()  # type: ignore[arg-type]  # mypy binds no method in functools.wraps
        self.model.generation_config.max_length = None
        self.name = Path(model).name if Path(model).is_dir() else model
        self.sampling, self.width, self.revision = sampling, batch_size, revision
        config = self.model.config.get_text_config()
        self.longest = getattr(config, "max_position_embeddings", None)
        eos = self.model.generation_config.eos_token_id
        known = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self._ends = sorted({*known, self.tokenizer.eos_token_id} - {None})
        self._heads: dict[str, list[int]] = {}
        self.cache_bytes = cache_bytes
        self._prompts: OrderedDict[tuple[int, ...], _Keys] = OrderedDict()

    def settings(self) -> dict[str, Any]:
        """What beside the request decides the answers; `batch_size` does not."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"policy": self.name, "revision": self.revision, "dtype": dtype, **vars(self.sampling)}

    def answer(self, requests: Sequence[Request]) -> Generator[tuple[int, Answered | Failed], None, None]:
        """See `Policy.answer`; batches of like length, the samples of one prompt together."""
        ids = {key: self._ids(*key) for key in dict.fromkeys(map(_key, requests))}
        prompts = {prompt: len(self._ids(prompt, "")) for prompt, _ in ids}
        rows: list[tuple[int, int]] = []  # (request, sample)
        for i in sorted(range(len(requests)), key=lambda i: (len(ids[_key(requests[i])]), _key(requests[i]))):
            n, new = len(ids[_key(requests[i])]), self._limit(requests[i])
            if self.longest is not None and n + new > self.longest:
                why = f"the prompt has {n} tokens; with {new} new ones the model's "
                yield i, Failed(f"{why}limit of {self.longest} is passed", refused=True)
            else:
                rows += [(i, k) for k in range(requests[i].n)]
        made: dict[int, list[Completion]] = {}
        for start in range(0, len(rows), self.width):
            batch = [(requests[i], k, i) for i, k in rows[start : start + self.width]]
            cut = [_Row(ids[_key(r)], prompts[r.prompt], _sample_seed(r.seed, k), r) for r, k, _ in batch]
            for (request, _, i), completion in zip(batch, self._generate(cut), strict=True):
                done = made.setdefault(i, [])
                done.append(completion)
                if len(done) == request.n:
                    yield i, Answered(made.pop(i), len(ids[_key(request)]))

    def _limit(self, request: Request) -> int:
        return min(self.sampling.max_new_tokens, request.max_new_tokens or self.sampling.max_new_tokens)

    def _ids(self, prompt: str, prefix: str) -> list[int]:
        """Template and text are read apart, so that nothing in a schema can end a message."""
        if not self._heads:
            if self.tokenizer.chat_template:
                mark = "PROMPT\ufffcHERE"
                shown = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
                )
                assert isinstance(shown, str)  # as asked: tokenize=False
                before, _, after = shown.partition(mark)
                self._heads = {
                    "before": self.tokenizer(before, add_special_tokens=False)["input_ids"],
                    "after": self.tokenizer(after, add_special_tokens=False)["input_ids"],
                }
            else:
                bos = self.tokenizer.bos_token_id
                self._heads = {"before": [] if bos is None else [bos], "after": []}
        return [
            *self._heads["before"],
            *self._text_ids(prompt),
            *self._heads["after"],
            *self._text_ids(prefix),
        ]

    def _text_ids(self, text: str) -> list[int]:
        if not text:
            return []
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]

    def _generate(self, rows: list[_Row]) -> list[Completion]:
        """A completion a row."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        pad = self._ends[0] if self._ends else 0
        # Of a prompt all but the last token can be kept; what follows is read anew.
        keys = self._kept_keys([tuple(row.ids[: row.kept]) for row in rows])
        parts = [(row.ids[: row.kept], row.ids[row.kept :]) for row in rows]
        if keys is None:
            parts = [([], row.ids) for row in rows]
        widths = [max(len(part[k]) for part in parts) for k in range(2)]
        start, device = sum(widths), self.model.device

        def padded(filler: int, of: Callable[[list[int]], list[int]]) -> Any:
            parted = [
                [filler] * (widths[0] - len(head)) + of(head) + [filler] * (widths[1] - len(tail)) + of(tail)
                for head, tail in parts
            ]
            return torch.tensor(parted, device=device)

        limits = [self._limit(row.request) for row in rows]
        greedy = [row.request.greedy or self.sampling.temperature == 0 for row in rows]
        ends = _RowEnds(self.tokenizer, start, [row.request.stop for row in rows], limits)
        with torch.inference_mode():
            out = self.model.generate(  # type: ignore[misc]  # its protocol for `self` is meant for ty
                input_ids=padded(pad, list),
                attention_mask=padded(0, lambda part: [1] * len(part)),
                past_key_values=None if keys is None else _joined(keys, widths[0]),
                max_new_tokens=max(limits),
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=self._ends or None,
                pad_token_id=pad,
                logits_processor=LogitsProcessorList(
                    [_OwnStream(self.sampling, [row.seed for row in rows], greedy)]
                ),
                stopping_criteria=StoppingCriteriaList([ends]),
            )
        made = []
        for row, limit, length, new in zip(rows, limits, ends.lengths, out[:, start:].tolist(), strict=True):
            new = new[: length or limit]  # pads follow
            at = next((k for k, token in enumerate(new) if token in self._ends), None)
            text = self.tokenizer.decode(
                new if at is None else new[:at], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            assert isinstance(text, str)  # of one row
            step = None if row.request.stop is None else through_stop(text, row.request.stop)
            own = trimmed(text, "") if step is None else trimmed(step, "")
            ended = at is not None or step is not None or any(stop in text for stop in STOPS)
            tokens = len(new) if at is None else at + 1
            made.append(Completion(own, tokens, not ended, step is not None and own == step))
        return made

    def _kept_keys(self, prompts: list[tuple[int, ...]]) -> list[_Keys] | None:
        """Keys and values of each of the prompts, computed where they are not at hand.

        None where the model's cache is not of the plain kind that can be taken apart (sliding windows,
        states)."""
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        if not all(prompts):
            return None
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._prompts]
        if missing:
            longest, device = max(map(len, missing)), self.model.device
            pad = self._ends[0] if self._ends else 0
            ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in missing], device=device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in missing], device=device)
            with torch.inference_mode():
                cache = self.model.base_model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=True,
                ).past_key_values
            if type(cache) is not DynamicCache or {type(layer) for layer in cache.layers} != {DynamicLayer}:
                return None
            for i, prompt in enumerate(missing):
                own = slice(longest - len(prompt), None)
                self._prompts[prompt] = [
                    (keys[i : i + 1, :, own].clone(), values[i : i + 1, :, own].clone())
                    for keys, values, *_ in cache
                ]
        for prompt in wanted:
            self._prompts.move_to_end(prompt)
        found = [self._prompts[prompt] for prompt in prompts]
        used = sum(k.nbytes + v.nbytes for keys in self._prompts.values() for k, v in keys)
        while used > self.cache_bytes:
            _, oldest = self._prompts.popitem(last=False)
            used -= sum(k.nbytes + v.nbytes for k, v in oldest)
        return found


#: Keys and values of a text, of each layer: (1, key heads, tokens, width).
_Keys = list[tuple[Any, Any]]


@dataclass(frozen=True)
class _Row:
    """One sample to be made: the ids of prompt and prefix, those of the prompt first."""

    ids: list[int]
    prompt: int
    seed: int
    request: Request

    @property
    def kept(self) -> int:
        """Tokens of the prompt whose keys can be kept: all but the last, from which generation goes on."""
        return max(self.prompt - 1, 0)


def _joined(keys: list[_Keys], width: int) -> Any:
    """One cache of several texts, padded on the left to `width` tokens."""
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.layers = [_roomy_layer()(parts, width) for parts in zip(*keys, strict=True)]
    return cache


@functools.cache
def _roomy_layer() -> type:
    import torch
    from transformers.cache_utils import DynamicLayer

    def padded(x: Any, before: int, behind: int) -> Any:
        return torch.nn.functional.pad(x, (0, 0, before, behind))

    class RoomyLayer(DynamicLayer):
        """Keys and values in memory that grows by half when it is full. transformers' own layer copies all of
        them for each new token."""

        keys: torch.Tensor
        values: torch.Tensor

        def __init__(self, parts: Sequence[tuple[Any, Any]], width: int) -> None:
            super().__init__()
            self.lazy_initialization(*parts[0])
            self._with_room: list[Any] = []
            self.keys, self.values = (
                torch.cat([padded(part, width - part.shape[2], 0) for part in own])
                for own in zip(*parts, strict=True)
            )

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            start, new = self.keys.shape[2], key_states.shape[2]
            if not self._with_room or start + new > self._with_room[0].shape[2]:
                self._with_room = [padded(x, 0, new + start // 2) for x in (self.keys, self.values)]
            for whole, states in zip(self._with_room, (key_states, value_states), strict=True):
                whole[:, :, start : start + new] = states
            self.keys, self.values = (whole[:, :, : start + new] for whole in self._with_room)
            return self.keys, self.values

    return RoomyLayer


def _key(request: Request) -> tuple[str, str]:
    return request.prompt, request.prefix


def _sample_seed(seed: int, k: int) -> int:
    return int.from_bytes(sha256(f"{seed}\x1f{k}".encode()).digest()[:6], "big")


class _OwnStream:
    """Draws every row's token from a random stream of that row's own, and leaves generation no other choice.
    Rows that are `greedy` take the likeliest.

    One uniform number a token, looked up in the cumulated probabilities: noise for every entry of a large
    vocabulary would cost more than the model.
    """

    def __init__(self, sampling: Sampling, seeds: list[int], greedy: Sequence[bool] = ()) -> None:
        import torch

        self.sampling = sampling
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.greedy = list(greedy) or [sampling.temperature == 0] * len(seeds)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        if all(self.greedy):
            return scores
        scores = scores.float()
        chances = (scores / self.sampling.temperature).softmax(-1)
        if self.sampling.top_p < 1:
            ordered, index = chances.sort(descending=True, dim=-1)
            beyond = ordered.cumsum(-1) - ordered >= self.sampling.top_p  # the likeliest always stays
            chances = chances.masked_fill(beyond.scatter(-1, index, beyond), 0.0)
        below = chances.cumsum(-1)
        drawn = torch.stack([1 - torch.rand(1, generator=stream) for stream in self.streams])  # in (0, 1]
        drawn = drawn.to(below.device, below.dtype) * below[:, -1:]
        token = (below < drawn).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        likeliest = torch.tensor(self.greedy, device=scores.device)[:, None]
        token = torch.where(likeliest, scores.argmax(-1, keepdim=True), token)
        return torch.full_like(scores, float("-inf")).scatter(-1, token, 0.0)


class _RowEnds:
    """Ends a row at its request's `stop`, at its own number of tokens, or where it has begun a question of
    its own. `lengths`: of each row the tokens up to there, None where none of this has ended it."""

    def __init__(
        self, tokenizer: Any, prompt_length: int, stops: Sequence[str | None], limits: Sequence[int]
    ) -> None:
        self.tokenizer, self.start, self.stops, self.limits = tokenizer, prompt_length, stops, limits
        self.lengths: list[int | None] = [None] * len(stops)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        new = input_ids[:, self.start :]
        tails = self.tokenizer.batch_decode(new[:, -12:], clean_up_tokenization_spaces=False)
        for i, (tail, stop, limit) in enumerate(zip(tails, self.stops, self.limits, strict=True)):
            if self.lengths[i] is not None:
                continue
            ended = new.shape[1] >= limit or any(one in tail for one in STOPS)
            if not ended and stop is not None and stop in tail:  # white space that leads does not count
                ended = through_stop(self.tokenizer.decode(new[i]), stop) is not None
            if ended:
                self.lengths[i] = new.shape[1]
        return torch.tensor(
            [length is not None for length in self.lengths], device=input_ids.device, dtype=torch.bool
        )


# --- a model behind a server --------------------------------------------------------------------------------


class ServerPolicy:
    """A model of an OpenAI-compatible server at `base_url` (`http://localhost:8000/v1`).

    `concurrency` requests are under way at a time. What passes (429, 5xx, a broken or slow connection, an
    answer that is no JSON) is tried `tries` times, after 1, 2, 4 … seconds with jitter, or after what the
    server asks for (`Retry-After`). The API key is read from the environment variable `api_key_env`; it is
    sent to `base_url` alone (redirects are not followed) and shown nowhere.

    What a server does with `stop` differs: most leave it out of the text, many do not say whether it or the
    end of the answer was met, some ignore it. So the text is cut here, too, and where nobody says, the stop
    is taken to have been met: an answer that was over goes on with nothing."""

    remote = True

    def __init__(
        self,
        base_url: str,
        model: str,
        sampling: Sampling,
        *,
        api: str = "chat",
        concurrency: int = 8,
        timeout: float = 300.0,
        tries: int = 6,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> None:
        """
        Raises:
            InputError: `base_url` is no HTTP address, or the key holds what no HTTP header can.
        """
        parts = urllib.parse.urlsplit(base_url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--base-url must look like http://localhost:8000/v1, not {base_url[:80]!r}")
        if parts.username or parts.password or parts.query:
            raise InputError(
                "--base-url must hold no user, password or query; put the key into the environment as "
                f"{api_key_env}"
            )
        if api not in APIS:
            raise InputError(f"--api must be one of {', '.join(APIS)}, not {api!r}")
        if not timeout > 0:
            raise InputError("--request-timeout must be more than 0 seconds")
        key = os.environ.get(api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"the key in {api_key_env} holds characters that no key has; set it again")
        self._key = key
        self.key_env = api_key_env
        path = parts.path.rstrip("/")
        self.base_url = f"{parts.scheme}://{parts.netloc}{path}"
        self.name, self.sampling, self.api = model, sampling, api
        self.timeout, self.tries, self.width = timeout, tries, concurrency
        self._opener = urllib.request.build_opener(_NoRedirect)

    def settings(self) -> dict[str, Any]:
        """What beside the request decides the answers."""
        return {"policy": self.name, "api": self.api, **vars(self.sampling)}

    def answer(self, requests: Sequence[Request]) -> Generator[tuple[int, Answered | Failed], None, None]:
        """See `Policy.answer`.

        Raises:
            InputError: the server does not know us, the address or the model.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Answered | Failed | BaseException]] = queue.SimpleQueue()
        for i in range(len(requests)):
            waiting.put(i)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    i = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((i, self._answer(requests[i], stop)))
                except BaseException as error:
                    done.put((i, error))

        # Daemons, for an interrupt must not wait for answers that are minutes away.
        for _ in range(min(self.width, len(requests))):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in requests:
                i, came = done.get()
                if isinstance(came, BaseException):
                    raise came
                yield i, came
        finally:
            stop.set()

    def _answer(self, request: Request, stop: threading.Event) -> Answered | Failed:
        """All `n` samples: servers that know no `n` give one at a time."""
        got: list[Completion] = []
        prompt_tokens = 0
        while len(got) < request.n:
            answer = self._post(self._body(request, request.seed + len(got), request.n - len(got)), stop)
            if isinstance(answer, Failed):
                return answer
            choices, usage = answer
            if request.stop is not None and request.prefix and choices[0].may_have_stopped_at_once:
                # Many chat templates strip the prefix, so that the model first writes the blank line again.
                unstopped = replace(request, stop=None)
                answer = self._post(self._body(unstopped, request.seed + len(got), 1), stop)
                if isinstance(answer, Failed):
                    return answer
                usage = {k: usage.get(k, 0) + answer[1].get(k, 0) for k in usage | answer[1]}
                choices = answer[0]
            made = usage.get("completion_tokens") or 0
            prompt_tokens += usage.get("prompt_tokens") or 0
            for choice in choices[: request.n - len(got)]:
                tokens = made // len(choices) if made else len(choice.text) // 4
                got.append(_completion(choice, request, tokens))
        return Answered(got, prompt_tokens)

    def _body(self, request: Request, seed: int, n: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "temperature": 0.0 if request.greedy else self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": min(
                self.sampling.max_new_tokens, request.max_new_tokens or self.sampling.max_new_tokens
            ),
            "seed": seed,
        }
        if n > 1:
            body["n"] = n
        stops = [] if request.stop is None else [request.stop]
        if self.api == "completions":
            return body | {"prompt": f"{request.prompt}\n{request.prefix}", "stop": [*stops, *STOPS]}
        if stops:
            body["stop"] = stops
        prompt = request.prompt
        if request.prefix and self.api == "chat-ask":
            prompt += (
                "\n\nThe answer has begun; these steps stand as they are:\n\n"
                f"{request.prefix.strip()}\n\n"
                "Write only what follows them: the next steps in the same form, up to the final SELECT. "
                "Repeat nothing."
            )
        messages = [{"role": "user", "content": prompt}]
        if request.prefix and self.api == "chat":
            messages.append({"role": "assistant", "content": request.prefix})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body | {"messages": messages}

    def _post(
        self, body: dict[str, Any], stop: threading.Event
    ) -> tuple[list[_Choice], dict[str, Any]] | Failed:
        """The choices of one HTTP request and its usage, after as many tries as are needed."""
        path = "/completions" if self.api == "completions" else "/chat/completions"
        why = ""
        for attempt in range(self.tries):
            if stop.is_set():
                return Failed("interrupted", refused=False)
            wait = None
            try:
                return _choices(self._send(self.base_url + path, body), self.api)
            except urllib.error.HTTPError as error:
                why = self._told(error)
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    return Failed(why, refused=True)
                wait = _retry_after(error.headers.get("Retry-After"))
            except TimeoutError:
                why = f"{self.base_url} gave no whole answer within {self.timeout:g} s"
            except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
                reason = getattr(error, "reason", None) or error
                why = f"{self.base_url} cannot be reached or gave a broken answer: {_one_line(reason)}"
            if attempt + 1 < self.tries:
                stop.wait(_pause(attempt, wait))
        return Failed(f"{why} ({self.tries} tries)", refused=False)

    def _send(self, url: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": f"nl2sql-prm/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body).encode()
        deadline = time.monotonic() + self.timeout
        request = urllib.request.Request(url, data, headers)
        with self._opener.open(request, timeout=self.timeout) as response:
            raw = bytearray()
            while piece := response.read1(1 << 16):  # a server that drips must not outlive the time-out
                raw += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(raw) > MAX_RESPONSE_BYTES:
                    raise ValueError("more than 64 MiB")
        return json.loads(raw)  # a torn answer is no JSON

    def _told(self, error: urllib.error.HTTPError) -> str:
        """What the server says against a request, in one line; raises where no other request can fare
        better."""
        try:
            told = error.read(1 << 16).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            told = ""
        with suppress(ValueError, AttributeError, TypeError):
            parsed = json.loads(told)
            parsed = parsed.get("error", parsed)
            told = (
                str(parsed.get("message") or parsed.get("detail"))
                if isinstance(parsed, dict)
                else str(parsed)
            )
        told = _one_line(told.replace(self._key, "…") if self._key else told)
        if error.code in (401, 403):
            have = "was refused" if self._key else "is not set"
            raise InputError(
                f"{self.base_url} does not let us in ({error.code}: {told}); {self.key_env} {have}"
            )
        if error.code in (404, 405):
            raise InputError(
                f"{error.code} from {error.url}: {told}; check --base-url (it mostly ends in /v1), --model "
                "and --api"
            )
        if 300 <= error.code < 400:
            raise InputError(
                f"{self.base_url} redirects to {error.headers.get('Location')}; give that as --base-url "
                "if it is right"
            )
        return f"{error.code}: {told}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to no address but the one that was given."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class _Choice:
    """`cut`: for want of tokens. `stop_reason`: what vLLM says beside it, the stop that was met or None for
    the end of the answer; "?" of servers that do not say."""

    text: str
    cut: bool
    stop_reason: Any

    @property
    def may_have_stopped_at_once(self) -> bool:
        return not self.text.strip() and not self.cut and self.stop_reason is not None


def _completion(choice: _Choice, request: Request, tokens: int) -> Completion:
    """What a choice says, with the stop that the request names behind it where it was met."""
    text = trimmed(choice.text, request.prefix)
    if request.stop is None:
        return Completion(text, tokens, choice.cut)
    if request.prefix.endswith("\n"):
        text = text.lstrip("\n")  # the blank line that is there already
    step = through_stop(text, request.stop)
    if step is None and text.strip() and not choice.cut and choice.stop_reason is not None:
        step = text + request.stop  # most servers leave it out
    return Completion(text if step is None else step, tokens, choice.cut and step is None, step is not None)


def _choices(answer: Any, api: str) -> tuple[list[_Choice], dict[str, Any]]:
    """Every choice, and the usage; ValueError for anything that is no answer."""
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        raise ValueError(f"the answer holds no choices: {str(answer)[:200]}")
    choices = []
    for choice in answer["choices"]:
        holder = (
            choice if api == "completions" else choice.get("message") if isinstance(choice, dict) else None
        )
        if not isinstance(holder, dict):
            raise ValueError(f"a choice without a message: {str(choice)[:200]}")
        text = holder.get("text" if api == "completions" else "content")
        if isinstance(text, list):  # parts
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
        if text is not None and not isinstance(text, str):
            raise ValueError(f"a choice whose text is none: {str(choice)[:200]}")
        cut = choice.get("finish_reason") == "length"
        choices.append(_Choice(_characters(text or ""), cut, choice.get("stop_reason", "?")))
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return choices, {k: v for k, v in usage.items() if isinstance(v, int)}


def _characters(text: str) -> str:
    """Half surrogate pairs, which JSON can say and UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _pause(attempt: int, wanted: float | None) -> float:
    """Seconds to wait after a failure; jitter keeps the clients of one server from coming back at once."""
    if wanted is not None:
        return wanted + random.uniform(0, 0.5)
    return min(BACKOFF * 2.0**attempt, 60.0) * random.uniform(0.5, 1.5)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (a number or a date), at most ten minutes; None where it says
    nothing."""
    if value is None:
        return None
    seconds = None
    with suppress(ValueError):
        seconds = float(value)
    if seconds is None:
        with suppress(ValueError, TypeError):
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return None if seconds is None or seconds != seconds else min(max(seconds, 0.0), 600.0)


def _one_line(error: object) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__
