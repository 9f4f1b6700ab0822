"""`prm serve`: scores over HTTP, for many clients at once, on one model.

Three parts. A `Batcher` owns the model in a thread of its own: it takes the waiting traces of all requests,
as many as fit into one forward, and reads them as one token tree on top of what earlier requests left in
memory (`prm.inference.prefix_cache`). A request larger than a forward takes turns with the others; a small
one that comes while a forward runs is in the next. A `Service` speaks HTTP: it reads bodies within their
limits, cuts answers into steps and tokens in threads, and refuses what would wait too long (429 with
Retry-After, by the measured rate), for a client that knows it is refused can go elsewhere. `serve` runs both
under uvicorn until a signal, and then finishes what is queued.

| | in | out |
|---|---|---|
| `POST /score` | `{"traces": […]}` as in a file; `sql` alone is cut into steps | `{"scores": [[…], …], …}` |
| `POST /rerank` | `{"question", "candidates", …}` as in a file | `{"chosen": index, "scores", …}` |
| `POST /pooling` | vLLM's: `input` or `messages`, `<extra_0>` behind each step | `[1 - score, score]` each |
| `POST /get_reward` | OpenRLHF's: `query`, `prompts`, `labels` | `{"rewards": […], "scores": […], …}` |
| `POST /compute_score` | RewardSQL's: `input`, ` и` behind each step | `{"score": […]}` |
| `GET /health`, `/metrics`, `/` | | JSON; Prometheus' text format; a page to try it |

Errors have the shape of OpenAI's API, `{"error": {"message", "type", "code"}}`.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import json
import logging
import math
import os
import re
import resource
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from prm.errors import InputError
from prm.inference.choosing import Aggregate, Choose, aggregate_scores, choose
from prm.inference.prefix_cache import PrefixCache
from prm.inference.reranking import Asked, Preparer, read_asked
from prm.inference.scoring import Ensemble, Scorer, combine_scores, load_scorer
from prm.sql.schema import schema_text
from prm.traces.answer import split_answer
from prm.traces.encoding import EncodedTrace
from prm.traces.formats import parse_json
from prm.traces.questions import locate_database
from prm.traces.trace import Step, Trace
from prm.traces.tree import distinct_tokens

logger = logging.getLogger(__name__)

Json = dict[str, Any]

#: Traces of one forward: those that are known already cost no tokens, but their answer has to be written.
MAX_TRACES = 1024
#: Forwards that may wait before the rate is known, and tokens of one request, in forwards.
FEW_FORWARDS, MAX_REQUEST_FORWARDS = 4, 64
#: OpenRLHF's client waits 180 seconds, tries five times, and then goes on without a reward.
PATIENCE = 170.0
#: Seconds that a client may take for its headers, and for its body.
HEADER_SECONDS, BODY_SECONDS = 10.0, 30.0
#: Of a body that is too large so much is read, and thrown away, so that its sender lives to see the answer.
DRAIN_BYTES = 64 << 20
#: Bodies of the largest size that may be in memory at a time.
BODIES = 8
READERS = 4  # threads that cut and tokenise

STEP_MARK = "<extra_0>"  # Qwen2.5-Math-PRM's, and so vLLM's default
REWARDSQL_MARK = " и"


# --- the model's thread -------------------------------------------------------------------------------------


@dataclass
class Job:
    """The traces of one request; `encoded` has a list for each model of an ensemble."""

    encoded: list[list[EncodedTrace]]
    tokens: int  # distinct ones
    scores: list[list[float]] = field(default_factory=list)
    future: Future[list[list[float]]] = field(default_factory=Future)
    alone: bool = False  # after a forward with others has failed

    def __len__(self) -> int:
        return len(self.encoded[0])

    @property
    def waiting_tokens(self) -> float:
        return self.tokens * (1 - len(self.scores) / len(self))

    @property
    def over(self) -> bool:
        return self.future.cancelled() or self.future.done()


class Batcher:
    """One thread that scores what is waiting, forward by forward.

    Args:
        cache_bytes: for the keys and values of prefixes, of all models together.
    """

    def __init__(
        self, scorer: Scorer | Ensemble, *, cache_bytes: int, metrics: Metrics | None = None
    ) -> None:
        members = scorer.scorers if isinstance(scorer, Ensemble) else [scorer]
        self.scorer = scorer
        self.caches = [PrefixCache(one, cache_bytes=cache_bytes // len(members)) for one in members]
        self.max_tokens = members[0].max_tokens_per_batch
        self.metrics = metrics or Metrics()
        self.tokens_per_second = 0.0  # of distinct tokens of requests, known ones included
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._encoding = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="prm-batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def encode(self, traces: Sequence[Trace], *, drop_long: bool) -> tuple[Job | None, list[int]]:
        """A job of the traces (None if there are none), and the numbers of those that are in it: all, or with
        `drop_long` those that every model can read.

        Raises:
            InputError: a trace is too long, and `drop_long` is False.
        """
        columns = []
        with self._encoding:  # an encoder remembers pieces of text
            for cache in self.caches:
                try:
                    columns.append(cache.scorer.encoder.encode(traces, drop_long=drop_long) if traces else [])
                except InputError as error:
                    if drop_long:  # all are
                        return None, []
                    raise InputError(str(error).removesuffix(" (--on-bad-rows skip)")) from None
        kept = [i for i in range(len(traces)) if all(column[i] is not None for column in columns)]
        if not kept:
            return None, []
        encoded = [[one for i in kept if (one := column[i]) is not None] for column in columns]
        return Job(encoded, distinct_tokens(encoded[0])), kept

    def submit(self, job: Job) -> Future[list[list[float]]]:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    @property
    def waiting(self) -> tuple[int, float]:
        """Requests in the queue, and the tokens that they wait for."""
        with self._changed:
            jobs = [job for job in self._jobs if not job.over]
        return len(jobs), sum(job.waiting_tokens for job in jobs)

    def seconds(self, tokens: float) -> float:
        """What so many tokens take at the present rate; 0 while it is not known."""
        return tokens / self.tokens_per_second if self.tokens_per_second else 0.0

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                self._jobs = deque(job for job in self._jobs if not job.over)
                if not self._jobs and self._stopping:
                    return
                jobs = list(self._jobs)
            if not jobs:
                continue
            unfinished = self._forward(jobs[:1] if jobs[0].alone else [job for job in jobs if not job.alone])
            with self._changed:
                self._jobs = deque(job for job in self._jobs if not job.over)
                if unfinished is not None and unfinished in self._jobs:  # the others first
                    self._jobs.remove(unfinished)
                    self._jobs.append(unfinished)

    def _forward(self, jobs: Sequence[Job]) -> Job | None:
        """Score the next traces of `jobs`; the one of them that has begun and is not finished."""
        line = ((job, i) for job in jobs for i in range(len(job.scores), len(job)))
        waiting = list(itertools.islice(line, MAX_TRACES))
        began = time.monotonic()
        taken = waiting[:1]
        try:
            first, *others = self.caches
            batch = first.batch([job.encoded[0][i] for job, i in waiting], self.max_tokens)
            taken = waiting[: batch.size]
            rows = [batch.run()]
            for number, cache in enumerate(others, 1):
                left, scores = [job.encoded[number][i] for job, i in taken], []
                while left:
                    other = cache.batch(left, cache.scorer.max_tokens_per_batch)
                    scores += other.run()
                    left = left[other.size :]
                rows.append(scores)
        except Exception as error:
            self._failed(list(dict.fromkeys(id(job) for job, _ in taken)), jobs, error)
            return None
        for (job, _), *each in zip(taken, *rows, strict=True):
            if isinstance(self.scorer, Ensemble):
                job.scores.append(combine_scores(each, self.scorer.combine, self.scorer.k))
            else:
                job.scores += each
        seconds = time.monotonic() - began
        done = sum(job.tokens / len(job) for job, _ in taken)
        rate = done / max(seconds, 1e-6)
        self.tokens_per_second += (rate - self.tokens_per_second) * (0.2 if self.tokens_per_second else 1.0)
        self.metrics.add("prm_forwards_total")
        self.metrics.add("prm_forward_seconds_total", seconds)
        self.metrics.add("prm_traces_total", len(taken))
        self.metrics.add("prm_tokens_total", batch.new_tokens, 'kind="computed"')
        self.metrics.add("prm_tokens_total", batch.tokens - batch.new_tokens, 'kind="shared"')
        for job in {id(job): job for job, _ in taken}.values():
            if len(job.scores) == len(job):
                _settle(job, job.scores)
        last = taken[-1][0]
        return last if len(last.scores) < len(last) else None

    def _failed(self, taken: Sequence[int], jobs: Sequence[Job], error: Exception) -> None:
        """Give the memory back, and try each request on its own: one of them may be to blame."""
        logger.error("a forward failed: %s: %s", type(error).__name__, error)
        self.metrics.add("prm_failed_forwards_total")
        for cache in self.caches:
            cache.clear()
        for job in jobs:
            if id(job) in taken:
                if len(taken) == 1:
                    _settle(job, error)
                job.alone = True


def _settle(job: Job, outcome: list[list[float]] | Exception) -> None:
    try:
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
    except InvalidStateError:
        pass  # its client has gone


# --- what it counts -----------------------------------------------------------------------------------------

_HELP = {
    "prm_requests_total": ("counter", "Requests by path and status; 499: the client went away."),
    "prm_request_seconds": ("histogram", "From the first byte of a request to its answer."),
    "prm_forwards_total": ("counter", "Forwards of the model."),
    "prm_failed_forwards_total": ("counter", "Forwards that failed."),
    "prm_forward_seconds_total": ("counter", "Seconds spent in forwards."),
    "prm_traces_total": ("counter", "Traces scored."),
    "prm_tokens_total": ("counter", "Tokens of scored traces: computed, or shared with others and not."),
    "prm_queue_requests": ("gauge", "Requests that wait for the model."),
    "prm_queue_tokens": ("gauge", "Tokens that they wait for."),
    "prm_cache_bytes": ("gauge", "Keys and values of prefixes in memory."),
    "prm_resident_bytes": ("gauge", "Memory of the process."),
}
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, math.inf)


class Metrics:
    """Counters and histograms, written in Prometheus' text format."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0, labels: str = "") -> None:
        with self._lock:
            self._values[name][labels] += value

    def request(self, path: str, status: int, seconds: float) -> None:
        self.add("prm_requests_total", 1.0, f'path="{path}",status="{status}"')
        with self._lock:
            histogram = self._values["prm_request_seconds"]
            for bucket in _BUCKETS:
                name = "+Inf" if bucket == math.inf else f"{bucket:g}"
                histogram[f'_bucket{{path="{path}",le="{name}"}}'] += seconds <= bucket
            histogram[f'_sum{{path="{path}"}}'] += seconds
            histogram[f'_count{{path="{path}"}}'] += 1

    def text(self, gauges: dict[str, float]) -> str:
        with self._lock:
            values = {name: dict(rows) for name, rows in self._values.items()}
        values |= {name: {"": value} for name, value in gauges.items()}
        lines = []
        for name, (kind, words) in _HELP.items():
            if name not in values:
                continue
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            for labels, value in values[name].items():
                where = labels if kind == "histogram" or not labels else f"{{{labels}}}"
                lines.append(f"{name}{where} {value:.12g}")
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


# --- bodies into traces -------------------------------------------------------------------------------------


@dataclass
class Asking:
    """What a request wants scored, and how its answer is made of the scores (None: too long a trace).

    `tokens` of all its traces are known when `answer` is called.
    """

    traces: list[Trace]
    answer: Callable[[list[list[float] | None]], Json]
    drop_long: bool = False
    tokens: int = 0


def _texts(body: Json, key: str, *, n: int | None = None) -> list[str]:
    value = body.get(key)
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"'{key}' must be a text or a list of texts")
    if n is not None and len(value) != n:
        raise InputError(f"{len(value)} '{key}' for {n} 'query'; give one for each")
    return value


_MARKUP = re.compile(
    r"<\|im_start\|>\w{1,20}\n|<\|start_header_id\|>\w{1,20}<\|end_header_id\|>\s*|<\|[^|<>\n]{1,40}\|>|</?s>"
)
_OUR_PROMPT = re.compile(r"^(?:Schema:\n|Evidence: |Question: )", re.MULTILINE)


def prompt_of(text: str) -> Json:
    """Of a policy's prompt what a PRM reads: our own prompt where it is in it (`prm.traces.prompting`),
    verbatim, and else all of it, without the marks of a chat template, as the question.
    """
    text = _MARKUP.sub("", text).strip()
    if not text:
        raise InputError("the prompt is empty")
    begin = _OUR_PROMPT.search(text)
    if begin and text.endswith("\nSteps:"):
        return {"question": text, "prompt": text[begin.start() :] + "\n"}
    return {"question": text}


def answer_of(text: str) -> Json | None:
    """A model's answer as a candidate: steps where it has them, its SQL where it is one statement, else its
    paragraphs; None where it says nothing.
    """
    text = _MARKUP.sub("", text)
    answer = split_answer(text)
    if answer is not None and answer.steps:
        if len(answer.steps) == 1 and not answer.steps[0].sentence:
            return {"sql": answer.steps[0].sql}
        texts = [f"{step.sentence}\n{step.sql}".strip() for step in answer.steps]
        return {"steps": [{"text": t, "sql": s.sql} for t, s in zip(texts, answer.steps, strict=True)]}
    paragraphs = [part.strip() for part in re.split(r"\n[ \t\r]*\n", text) if part.strip()]
    return {"steps": [{"text": part} for part in paragraphs]} if paragraphs else None


def response_of(query: str, prompt: str) -> str:
    """`query` without `prompt`: a tokenizer's special tokens may stand before it, and of a long one only the
    end may be there.
    """
    at = query.find(prompt)
    if at >= 0:
        return query[at + len(prompt) :]
    shared = _overlap(prompt, query)
    if shared < 16:
        raise InputError("'query' does not begin with its prompt, so where the answer begins is unknown")
    return query[shared:]


def _overlap(left: str, right: str, most: int = 200_000) -> int:
    """The length of the longest end of `left` with which `right` begins, by Knuth, Morris and Pratt."""
    joined = right[: min(len(left), most)] + "\0" + left[-min(len(right), most) :]
    border = [0] * len(joined)
    for i in range(1, len(joined)):
        k = border[i - 1]
        while k and joined[i] != joined[k]:
            k = border[k - 1]
        border[i] = k + (joined[i] == joined[k])
    return border[-1]


_ANSWER_BEGINS = (
    re.compile(r'\bWITH\s+(?:RECURSIVE\s+)?(?:"[^"]{1,128}"|\w{1,128})\s+AS\s*\(', re.IGNORECASE),
    re.compile(r"\bSELECT\b"),
)


def _answer_begins(text: str) -> int:
    """Where, in RewardSQL's prompt and first step, the step begins: its client puts an answer on one line."""
    line = text.rfind("\n") + 1
    for pattern in _ANSWER_BEGINS:
        if begin := pattern.search(text, line):
            return begin.start()
    for pattern in _ANSWER_BEGINS:
        if begins := [match.start() for match in pattern.finditer(text)]:
            return begins[-1]
    raise InputError("'input' has no WITH and no SELECT, so where its first step begins is unknown")


class Reader:
    """Bodies of requests into `Asking`s; `preparer` cuts and runs SQL. One for each thread."""

    def __init__(self, scorer: Scorer | Ensemble, model: str, databases: Path | None, aggregate: Aggregate):
        self.model, self.databases, self.aggregate = model, databases, aggregate
        self.threshold = None if isinstance(scorer, Ensemble) else scorer.model.config.threshold
        self.preparer = Preparer(timeout=5.0)

    def score(self, body: Json) -> Asking:
        rows = body.get("traces")
        if not isinstance(rows, list) or not rows:
            raise InputError("'traces' must be a non-empty list of traces: question, schema and steps or sql")
        traces = []
        for number, row in enumerate(rows):
            try:
                traces.append(self._trace(row))
            except InputError as error:
                raise InputError(f"trace {number} (from 0): {error}") from None

        def answer(scores: list[list[float] | None]) -> Json:
            made: Json = {"model": self.model, "scores": scores}
            made["steps"] = [[step.text for step in trace.steps] for trace in traces]
            if (threshold := self.threshold) is not None:
                below = [[i for i, score in enumerate(row or ()) if score < threshold] for row in scores]
                made |= {"threshold": threshold, "first_error": [b[0] if b else -1 for b in below]}
            return made

        return Asking(traces, answer)

    def _trace(self, row: Any) -> Trace:
        if isinstance(row, dict) and "steps" not in row and "sql" in row:
            asked = self._asked({**row, "candidates": [{"sql": row["sql"]}]})
            prepared = self.preparer.prepare(replace(asked, gold_sql=None), asked.database)
            return _trace_of(asked, prepared.texts[0], prepared.schema)
        if isinstance(row, dict) and isinstance(row.get("steps"), list):
            steps = [{"text": step} if isinstance(step, str) else step for step in row["steps"]]
            row = {**row, "steps": steps}
        trace = Trace.from_dict(row, prefix=True)
        if trace.schema is None and trace.db_id is not None and self.databases is not None:
            place = self.preparer.places[self._database(trace.db_id)]
            trace.schema = schema_text(place.schema, trace.question)
        return trace

    def _asked(self, row: Json) -> Asked:
        """A question with its candidates; a `db_id` names a database where the server has some."""
        asked = read_asked(row, None)
        if asked.db_id is None or self.databases is None:
            return asked
        return replace(asked, database=self._database(asked.db_id))

    def _database(self, db_id: str) -> Path:
        path = None if self.databases is None else locate_database(self.databases, db_id)
        if path is None:  # and where they lie is nobody's business
            raise InputError(f"'db_id': this server has no database {db_id[:80]!r}")
        return path

    def rerank(self, body: Json) -> Asking:
        how, aggregate = body.get("choose", "best"), body.get("aggregate", "last")
        if how not in get_args(Choose):
            raise InputError(f"'choose' must be one of {', '.join(get_args(Choose))}")
        if aggregate not in get_args(Aggregate):
            raise InputError(f"'aggregate' must be one of {', '.join(get_args(Aggregate))}")
        drop = [body.get(key, False) for key in ("drop_failing", "drop_empty")]
        if not all(isinstance(flag, bool) for flag in drop):
            raise InputError("'drop_failing' and 'drop_empty' must be true or false")
        asked = self._asked(body)
        if asked.database is None and (how != "best" or any(drop)):
            raise InputError(
                "a vote and a filter run the candidates: give 'db_id', and start the server with --databases"
            )
        prepared = self.preparer.prepare(replace(asked, gold_sql=None), asked.database)
        distinct: dict[tuple[str, ...], int] = {}
        for texts in prepared.texts:
            distinct.setdefault(tuple(texts), len(distinct))
        traces = [_trace_of(asked, texts, prepared.schema) for texts in distinct]

        def answer(scores: list[list[float] | None]) -> Json:
            steps = [scores[distinct[tuple(texts)]] for texts in prepared.texts]
            of_each = [None if row is None else aggregate_scores(row, aggregate) for row in steps]
            chosen = choose(
                of_each, prepared.results, how=how, votes=asked.votes, n_rows=prepared.n_rows,
                drop_failing=drop[0], drop_empty=drop[1],
            )  # fmt: skip
            return {
                "model": self.model, "chosen": chosen, "scores": of_each, "step_scores": steps,
                "results": prepared.results, "n_rows": prepared.n_rows,
            }  # fmt: skip

        return Asking(traces, answer, drop_long=True)

    def pooling(self, body: Json) -> Asking:
        if body.get("encoding_format", "float") != "float":
            raise InputError("'encoding_format' must be 'float'")
        if "messages" in body:
            pairs = [_conversation(body["messages"])]
        else:
            pairs = [_marked(text) for text in _texts(body, "input")]
        traces = []
        for number, (prompt, text) in enumerate(pairs):
            *steps, tail = text.split(STEP_MARK)
            if not steps or _MARKUP.sub("", tail).strip() or not all(map(str.strip, steps)):
                raise InputError(
                    f"input {number}: {STEP_MARK} must stand behind each step, also the last one"
                )
            row = prompt_of(prompt) | {"steps": [{"text": step.strip()} for step in steps]}
            traces.append(Trace.from_dict(row))

        def answer(scores: list[list[float] | None]) -> Json:
            data = [
                {"index": i, "object": "pooling", "data": [[1 - score, score] for score in row or ()]}
                for i, row in enumerate(scores)
            ]
            usage = {"prompt_tokens": asking.tokens, "total_tokens": asking.tokens}
            return {
                "id": f"pool-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()),
                "model": self.model, "data": data,
                "usage": usage | {"completion_tokens": 0, "prompt_tokens_details": None},
            }  # fmt: skip

        asking = Asking(traces, answer)
        return asking

    def get_reward(self, body: Json) -> Asking:
        queries = _texts(body, "query")
        prompts = _texts(body, "prompts", n=len(queries))
        labels = body.get("labels") or [None] * len(queries)
        if not isinstance(labels, list) or len(labels) != len(queries):
            raise InputError(f"'labels' must be a list with one entry for each of the {len(queries)} 'query'")
        traces: list[Trace] = []
        places: list[int | None] = []  # of each query its trace; None: there is no answer in it
        correct: list[bool | None] = []
        for number, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
            try:
                candidate = answer_of(response_of(query, prompt))
                row = prompt_of(prompt) | _label(label)
                if candidate is None:
                    places.append(None)
                    correct.append(False)
                    continue
                asked = self._asked({**row, "candidates": [candidate]})
            except InputError as error:
                raise InputError(f"query {number} (from 0): {error}") from None
            prepared = self.preparer.prepare(asked, asked.database)
            places.append(len(traces))
            correct.append(prepared.correct[0] if prepared.correct else None)
            traces.append(_trace_of(asked, prepared.texts[0], prepared.schema))

        def answer(scores: list[list[float] | None]) -> Json:
            steps = [[] if place is None else scores[place] for place in places]
            rewards = [aggregate_scores(row, self.aggregate) if row else 0.0 for row in steps]
            known = [
                reward if right is None else float(right)
                for reward, right in zip(rewards, correct, strict=True)
            ]
            return {"rewards": rewards, "scores": known, "step_scores": steps}

        return Asking(traces, answer, drop_long=True)

    def compute_score(self, body: Json) -> Asking:
        (text,) = _texts(body, "input")
        *parts, tail = text.split(REWARDSQL_MARK)
        if not parts or tail.strip():
            raise InputError(f"'input' must have {REWARDSQL_MARK!r} behind each step, also the last one")
        at = _answer_begins(parts[0])
        prompt, parts[0] = parts[0][:at], parts[0][at:]
        answer = split_answer("\n\n".join(parts))
        steps = [step.sql for step in answer.steps] if answer else []
        if len(steps) != len(parts):  # not one CTE a step: as they are
            steps = parts
        trace = Trace.from_dict(prompt_of(prompt) | {"steps": [{"text": step.strip()} for step in steps]})
        return Asking([trace], lambda scores: {"score": scores[0]})

    def close(self) -> None:
        self.preparer.close()


def _trace_of(asked: Asked, texts: Sequence[str], schema: str | None) -> Trace:
    return Trace(
        asked.question, [Step(text) for text in texts], schema=schema, evidence=asked.evidence,
        extra={} if asked.prompt is None else {"prompt": asked.prompt},
    )  # fmt: skip


def _label(label: Any) -> Json:
    """OpenRLHF hands a data set's label through as a text: here JSON with what is known of the question."""
    if label is None or label == "":
        return {}
    if isinstance(label, str):
        try:
            label = json.loads(label)
        except ValueError:
            raise InputError("the label must be JSON: db_id, gold_sql, question, schema, evidence") from None
    if not isinstance(label, dict):
        raise InputError("the label must be a JSON object: db_id, gold_sql, question, schema, evidence")
    known = {
        key: label[key] for key in ("db_id", "gold_sql", "question", "schema", "evidence") if key in label
    }
    if "question" in known:
        known["prompt"] = None  # made of question and schema, as in training
    return known


def _conversation(messages: Any) -> tuple[str, str]:
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages
    ):
        raise InputError("'messages' must be a list of objects with role and content, both texts")
    if not messages or messages[-1].get("role") != "assistant":
        raise InputError(f"the last message must be the assistant's: its steps, {STEP_MARK} behind each")
    prompt = "\n".join(m["content"] for m in messages[:-1] if m.get("role") == "user")
    return prompt, messages[-1]["content"]


def _marked(text: str) -> tuple[str, str]:
    """Prompt and steps of one text: what comes before the assistant's turn, or before our own `Steps:`."""
    head = text.partition(STEP_MARK)[0]
    for end in ("<|im_start|>assistant\n", "\nSteps:\n"):
        at = head.rfind(end)
        if at >= 0:
            user = head[:at] + ("\nSteps:\n" if end.startswith("\nS") else "")
            return user.rpartition("<|im_start|>user\n")[2], text[at + len(end) :]
    raise InputError(
        "where the steps begin is unknown: put 'Steps:' on a line before them, or use 'messages'"
    )


# --- HTTP ---------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A request that ends with another status than 200."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {k.replace("_", "-"): v for k, v in headers.items()}

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status < 429 else "overloaded_error"
        error = {"message": str(self), "type": kind, "code": self.status}
        return JSONResponse({"error": error}, self.status, self.headers)


class _Gone(Exception):
    """The client went away."""


@dataclass
class Limits:
    """`max_wait`: seconds of queue from which on requests are refused; `timeout`: seconds that one may take;
    `max_body`: bytes."""

    max_wait: float = 30.0
    timeout: float = 120.0
    max_body: int = 4 << 20


class Service:
    """Requests into answers."""

    def __init__(
        self,
        batcher: Batcher,
        *,
        model: str,
        databases: str | Path | None = None,
        aggregate: Aggregate = "last",
        api_key: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.batcher, self.model, self.metrics = batcher, model, batcher.metrics
        self.databases = None if databases is None else Path(databases)
        self.aggregate: Aggregate = aggregate
        self.api_key, self.limits = api_key, limits or Limits()
        self.stopping = False
        self._held = 0  # bytes of bodies in memory
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="prm-reader")
        self._local = threading.local()
        self._readers: list[Reader] = []

    def close(self) -> None:
        self._threads.shutdown()
        for reader in self._readers:
            reader.close()

    async def answer(self, request: Request, read: Callable[[Reader, Json], Asking]) -> Response:
        path, began = request.url.path, time.monotonic()
        patient = path == "/get_reward"
        seconds = PATIENCE if patient else self.limits.timeout
        status = 499
        try:
            async with asyncio.timeout(seconds):
                response: Response = JSONResponse(await self._answered(request, read, patient))
            status = response.status_code
        except (Refused, TimeoutError) as refused:
            if not isinstance(refused, Refused):
                refused = Refused(503, f"not finished within {seconds:g} seconds", retry_after="5")
            response, status = refused.response(), refused.status
        except _Gone:
            response = Response(status_code=499)
        except Exception as error:
            logger.exception("%s failed", path)
            status = 500
            message = f"{type(error).__name__} on the server; its log says more"
            response = JSONResponse({"error": {"message": message, "type": "server_error", "code": 500}}, 500)
        finally:
            self.metrics.request(path, status, time.monotonic() - began)
        return response

    async def _answered(
        self, request: Request, read: Callable[[Reader, Json], Asking], patient: bool
    ) -> Json:
        self.authorise(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A page of another site can post a form, but not this, without being asked first.
            raise Refused(415, "the body must be JSON, and 'Content-Type: application/json' say so")
        held = 0
        try:
            held = await self._reserve(request, patient)
            body = await self._body(request)
            loop = asyncio.get_running_loop()
            asking, job, kept = await loop.run_in_executor(self._threads, self._read, body, read)
            del body
            scores: list[list[float] | None] = [None] * len(asking.traces)
            if job is not None:
                self._admit(job, patient)
                for i, row in zip(kept, await self._scored(request, job), strict=True):
                    scores[i] = row
            return asking.answer(scores)
        except InputError as error:
            raise Refused(400, str(error)) from None
        finally:
            self._held -= held

    def authorise(self, request: Request) -> None:
        """Compare the key, if the server has one, in a time that does not depend on where it differs.

        It may come as `Bearer KEY`, or as the password of Basic, for clients that can say no more than a URL
        (`http://user:KEY@host/get_reward`).
        """
        if self.api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given).decode().partition(":")[2]
            except ValueError:
                given = ""
        if not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise Refused(401, "the API key is missing or wrong: 'Authorization: Bearer KEY'",
                          WWW_Authenticate="Bearer")  # fmt: skip

    async def _reserve(self, request: Request, patient: bool) -> int:
        """Room for the body; the number of its bytes."""
        limit = self.limits.max_body
        length = request.headers.get("content-length")
        size = int(length) if length is not None and length.isdigit() else limit
        if size > limit:
            await self._drain(request)
            raise self._too_large()
        while self._held + size > BODIES * limit:
            if not patient:
                raise self._busy()
            await asyncio.sleep(0.05)
        self._held += size
        return size

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.max_body:
                        await self._drain(request)
                        raise self._too_large()
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {BODY_SECONDS:g} seconds", Connection="close"
            ) from None
        except ClientDisconnect:
            raise _Gone from None
        return bytes(body)

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"the body is larger than {self.limits.max_body:,} bytes; send it in parts",
            Connection="close",
        )

    async def _drain(self, request: Request) -> None:
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while left > 0:
                    message = await request.receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return
        except TimeoutError:
            return

    def _read(
        self, body: bytes, read: Callable[[Reader, Json], Asking]
    ) -> tuple[Asking, Job | None, list[int]]:
        """In a thread: JSON, steps, tokens."""
        if not hasattr(self._local, "reader"):
            self._local.reader = Reader(self.batcher.scorer, self.model, self.databases, self.aggregate)
            self._readers.append(self._local.reader)
        value = parse_json(body)
        if not isinstance(value, dict):
            raise InputError("the body must be a JSON object")
        asking = read(self._local.reader, value)
        job, kept = self.batcher.encode(asking.traces, drop_long=asking.drop_long)
        asking.tokens = sum(len(one.input_ids) for one in job.encoded[0]) if job is not None else 0
        return asking, job, kept

    def _admit(self, job: Job, patient: bool) -> None:
        """Refuse what is too much at once, or would wait too long."""
        if self.stopping or not self.batcher.alive:
            raise Refused(503, "the server is stopping", retry_after="10")
        largest = MAX_REQUEST_FORWARDS * self.batcher.max_tokens
        if job.tokens > largest:
            raise Refused(413, f"{job.tokens:,} tokens in one request, at most {largest:,}; send it in parts")
        waiting = self.batcher.waiting[1]
        few = FEW_FORWARDS * self.batcher.max_tokens
        if patient or not waiting or waiting + job.tokens <= few:
            return
        if self.batcher.seconds(waiting + job.tokens) > self.limits.max_wait:
            raise self._busy()

    def _busy(self) -> Refused:
        seconds = min(max(math.ceil(self.batcher.seconds(self.batcher.waiting[1]) / 2), 1), 60)
        return Refused(429, "too much is waiting already; try again", Retry_After=str(seconds))

    async def _scored(self, request: Request, job: Job) -> list[list[float]]:
        result = asyncio.wrap_future(self.batcher.submit(job))
        gone = asyncio.create_task(_until_gone(request))
        try:
            first: list[asyncio.Future[Any]] = [result, gone]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise _Gone
            return result.result()
        finally:  # also when the time is over
            gone.cancel()
            job.future.cancel()

    def health(self) -> JSONResponse:
        requests, tokens = self.batcher.waiting
        well = self.batcher.alive and not self.stopping
        body = {
            "status": "ok" if well else "stopping" if self.stopping else "failed", "model": self.model,
            "threshold": None if isinstance(self.batcher.scorer, Ensemble)
            else self.batcher.scorer.model.config.threshold,
            "queue_requests": requests, "queue_seconds": round(self.batcher.seconds(tokens), 1),
        }  # fmt: skip
        return JSONResponse(body, 200 if well else 503)

    def gauges(self) -> dict[str, float]:
        requests, tokens = self.batcher.waiting
        return {
            "prm_queue_requests": requests,
            "prm_queue_tokens": round(tokens),
            "prm_cache_bytes": sum(cache.bytes for cache in self.batcher.caches),
            "prm_resident_bytes": resident_bytes(),
        }


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def make_app(service: Service) -> FastAPI:
    """The application; its lifespan starts and stops the batcher."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        service.stopping = True
        await asyncio.to_thread(service.batcher.stop)
        await asyncio.to_thread(service.close)

    # The pages that FastAPI makes of its schema load scripts from elsewhere.
    app = FastAPI(title="prm serve", docs_url=None, redoc_url=None, lifespan=lifespan)
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    @app.post("/score")
    async def score(request: Request) -> Response:
        """Traces in, the scores of their steps out."""
        return await service.answer(request, Reader.score)

    @app.post("/rerank")
    async def rerank(request: Request) -> Response:
        """A question and its candidates in, the index of the best one out."""
        return await service.answer(request, Reader.rerank)

    @app.post("/pooling")
    async def pooling(request: Request) -> Response:
        """As vLLM serves a process reward model."""
        return await service.answer(request, Reader.pooling)

    @app.post("/get_reward")
    async def get_reward(request: Request) -> Response:
        """OpenRLHF's remote reward."""
        return await service.answer(request, Reader.get_reward)

    @app.post("/compute_score")
    async def compute_score(request: Request) -> Response:
        """RewardSQL's."""
        return await service.answer(request, Reader.compute_score)

    @app.get("/health")
    async def health() -> Response:
        return service.health()

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        try:
            service.authorise(request)
        except Refused as refused:
            return refused.response()
        text = service.metrics.text(service.gauges())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def root() -> Response:
        policy = (
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy + "; frame-ancestors 'none'"})

    return app


class ImpatientProtocol(H11Protocol):
    """uvicorn's, which lets a client take for ever over its headers."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        between = self.cycle is None or self.cycle.response_complete
        if not between and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif between and self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        self._timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


# --- the command --------------------------------------------------------------------------------------------


def read_key(file: str | None) -> str | None:
    """The API key: the first line of `file`, else `PRM_API_KEY`; None where neither is given.

    Raises:
        InputError: the file cannot be read or is empty, or the key is not plain ASCII.
    """
    key = os.environ.get("PRM_API_KEY") or None
    if file is not None:
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the API key cannot be read: {error}", file=file) from None
        if not key:
            raise InputError("holds no API key", file=file)
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError("an API key must be of printable ASCII characters without spaces", file=file)
    return key


def serve(
    models: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    databases: str | None = None,
    aggregate: Aggregate = "last",
    api_key_file: str | None = None,
    cache_bytes: int = 1 << 30,
    limits: Limits | None = None,
    **loading: Any,
) -> None:
    """`prm serve`: until SIGINT or SIGTERM; then new requests are refused and those that wait are finished.

    Args:
        databases: a data set's folder; then requests may name a `db_id` for the schema, and for votes.
        aggregate: of the steps' scores, for `/get_reward`.
        loading: as in `prm.inference.scoring.load_scorer`.

    Raises:
        InputError: model, folder, key, host or port cannot be used.
    """
    limits = limits or Limits()
    key = read_key(api_key_file)
    if databases is not None and not Path(databases).is_dir():
        raise InputError("no such folder; --databases is the data set's folder", file=databases)
    listener = _listen(host, port)  # before the model is loaded: that takes long
    try:
        scorer = load_scorer(models, **loading)
        batcher = Batcher(scorer, cache_bytes=cache_bytes)
        name = ", ".join(models)
        service = Service(
            batcher, model=name, databases=databases, aggregate=aggregate, api_key=key, limits=limits
        )
        _allow_many_clients()
        config = uvicorn.Config(
            make_app(service),
            http=ImpatientProtocol,
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=75,  # longer than a balancer keeps its connections
            timeout_graceful_shutdown=math.ceil(max(limits.timeout, PATIENCE)) + 5,
        )
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"{name} on http://{shown}:{port}", flush=True)
        if key is None and not _is_loopback(address):
            print(
                "prm: anyone who reaches this address may use it: set PRM_API_KEY or --api-key-file",
                flush=True,
            )
        before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"cannot listen on {host} port {port}: {error}; give another --port") from None
    return listener


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def _allow_many_clients() -> None:
    """A trainer asks for the rewards of all its samples at once, each on a connection of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
