"""`prm serve`: a real server on loopback, its clients good and bad."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from prm.cli import main
from prm.errors import InputError
from prm.inference import serving
from prm.inference.reranking import rerank
from prm.inference.scoring import Ensemble, Scorer
from prm.inference.serving import Batcher, ImpatientProtocol, Limits, Service, make_app
from prm.sql import decompose, read_schema, schema_text
from prm.traces.formats import load_traces, write_traces
from prm.traces.prompting import prompt_text
from prm.traces.trace import Step, Trace

SCHEMA = "singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"
QUESTION = "How many singers are above 20?"
STEPS = [
    "Take the rows of singer where age is above 20.\nS1 AS (SELECT * FROM singer WHERE age > 20)",
    "Count the rows of S1.\nSELECT COUNT(*) FROM S1",
    "Order by year, limit 1.",
]


@contextlib.contextmanager
def running(scorer, *, cache_bytes=1 << 28, model="tiny", **options):
    """A server on a free port of loopback, in this process."""
    service = Service(Batcher(scorer, cache_bytes=cache_bytes), model=model, **options)
    listener = serving._listen("127.0.0.1", 0)
    config = uvicorn.Config(
        make_app(service),
        http=ImpatientProtocol,
        ws="none",
        access_log=False,
        log_level="error",
        timeout_keep_alive=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    client = Client(listener.getsockname()[1], service)
    until(lambda: server.started)
    try:
        yield client
    finally:
        server.should_exit = True
        thread.join()


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


class Client:
    def __init__(self, port, service=None):
        self.port, self.service = port, service

    def post(self, path, body, headers=None):
        """(status, parsed body, headers)"""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", path, data, {"Content-Type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers
        finally:
            connection.close()

    def ask(self, path, body):
        status, reply, _ = self.post(path, body)
        assert status == 200, reply
        return reply

    def get(self, path, headers=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.M)
        return float(found[1]) if found else 0.0

    def raw(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@pytest.fixture(scope="module")
def scorer(make_model, tokenizer):
    model = make_model("llama")
    model.config.threshold = 0.5
    return Scorer(model, tokenizer)


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    (folder / "music").mkdir()
    with contextlib.closing(sqlite3.connect(folder / "music" / "music.sqlite")) as connection:
        connection.executescript(
            "CREATE TABLE singer(singer_id INTEGER PRIMARY KEY, name TEXT, age INTEGER);"
            "INSERT INTO singer VALUES (1, 'Ann', 19), (2, 'Bob', 30), (3, 'Eve', 41);"
        )
    return folder


@pytest.fixture(scope="module")
def client(scorer, databases):
    with running(scorer, databases=databases, limits=Limits(max_body=1 << 20)) as client:
        yield client


def trace(*steps, question=QUESTION):
    return Trace(question, [Step(text) for text in steps or STEPS], schema=SCHEMA)


def close(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-5)


def request_head(path="/score", length=100):
    headers = ["Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *headers, "", ""]).encode()


def answer_of(sock):
    """What the server says before it closes: the status, None where it says nothing."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            said += part
    return int(said.split()[1]) if said else None


# --- answers ------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_command_line(client, make_model, tokenizer, traces, tmp_path, scorer):
    scorer.model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    write_traces(traces, tmp_path / "t.jsonl")
    command = ["score", "--model", str(tmp_path / "checkpoint"), "--data", str(tmp_path / "t.jsonl")]
    assert main([*command, "--output", str(tmp_path / "s.jsonl")]) == 0
    reply = client.ask("/score", {"traces": [t.to_dict() for t in traces]})
    close(reply["scores"], [t.scores for t in load_traces(tmp_path / "s.jsonl")])
    assert reply["threshold"] == 0.5 and reply["model"] == "tiny"
    assert reply["first_error"] == [
        next((i for i, s in enumerate(row) if s < 0.5), -1) for row in reply["scores"]
    ]
    assert len(set(reply["first_error"])) > 1  # the model is not always of one opinion


def test_many_clients_each_get_their_own_scores(client, scorer):
    asked = [
        [trace(*STEPS[: 1 + i % 3], question=f"How many singers are above {i}?")] * (1 + i % 4)
        for i in range(64)
    ]
    before = client.metric("prm_forwards_total")
    with ThreadPoolExecutor(32) as pool:
        bodies = [{"traces": [t.to_dict() for t in traces]} for traces in asked]
        replies = list(pool.map(lambda body: client.ask("/score", body)["scores"], bodies))
    for reply, traces in zip(replies, asked, strict=True):
        close(reply, scorer.score(traces))
    assert client.metric("prm_forwards_total") - before < len(asked)  # they were read together


def test_what_is_known_is_not_computed_again(client):
    body = {"traces": [trace(question="Is this new?").to_dict()]}
    first = client.ask("/score", body)["scores"]
    computed, shared = (client.metric(f'prm_tokens_total{{kind="{k}"}}') for k in ("computed", "shared"))
    assert client.ask("/score", body)["scores"] == first
    assert client.metric('prm_tokens_total{kind="computed"}') == computed
    assert client.metric('prm_tokens_total{kind="shared"}') > shared


def test_traces_may_bring_steps_as_texts_or_sql_alone_or_a_database(client, scorer, databases):
    sql = "SELECT name, COUNT(*) FROM singer WHERE age > 20 GROUP BY name"
    schema = schema_text(read_schema(databases / "music" / "music.sqlite"), QUESTION)
    cut = [f"{step.text}\n{step.sql}" for step in decompose(sql)]
    assert len(cut) > 1
    reply = client.ask(
        "/score",
        {
            "traces": [
                {"question": QUESTION, "schema": SCHEMA, "steps": STEPS},
                {"question": QUESTION, "schema": SCHEMA, "sql": sql},
                {"question": QUESTION, "db_id": "music", "steps": STEPS},
                {"question": QUESTION, "db_id": "music", "sql": sql},
            ]
        },
    )
    assert reply["steps"][1] == cut
    here = Trace(QUESTION, [Step(text) for text in STEPS], schema=schema)
    there = Trace(QUESTION, [Step(text) for text in reply["steps"][3]], schema=schema)
    close(reply["scores"], scorer.score([trace(), trace(*cut), here, there]))


def test_an_ensemble_is_served_like_one_model(make_model, tokenizer, traces):
    members = [Scorer(make_model(family), tokenizer) for family in ("llama", "qwen3")]
    ensemble = Ensemble(members, "min")
    with running(ensemble) as client:
        reply = client.ask("/score", {"traces": [t.to_dict() for t in traces]})
    close(reply["scores"], ensemble.score(traces))
    assert "threshold" not in reply


CANDIDATES = [
    {"sql": "SELECT COUNT(*) FROM singer WHERE age > 20"},
    {"steps": [{"text": "Count all.\nSELECT COUNT(*) FROM singer"}]},
    {"sql": "SELECT COUNT(name) FROM singer WHERE age >= 30", "votes": 2},
    {"sql": "SELECT COUNT(*) FROM nobody"},
]


@pytest.mark.parametrize("choose", ["best", "vote", "weighted-vote"])
@pytest.mark.parametrize("aggregate", ["last", "min", "mean"])
def test_rerank_chooses_as_in_python(client, scorer, databases, choose, aggregate):
    body = {"question": QUESTION, "db_id": "music", "candidates": CANDIDATES}
    reply = client.ask("/rerank", body | {"choose": choose, "aggregate": aggregate})
    expected = rerank(
        scorer, QUESTION, CANDIDATES, database=databases / "music" / "music.sqlite",
        votes=[1, 1, 2, 1], how=choose, aggregate=aggregate,
    )  # fmt: skip
    assert reply["chosen"] == expected.chosen
    close([reply["scores"]], [expected.scores])
    close(reply["step_scores"], expected.step_scores)
    assert reply["results"] == expected.results == [0, 1, 0, None]
    assert reply["n_rows"] == [1, 1, 1, None]


def test_rerank_without_a_database_goes_by_score(client):
    reply = client.ask("/rerank", {"question": QUESTION, "schema": SCHEMA, "candidates": CANDIDATES})
    assert reply["results"] is None
    assert reply["chosen"] == max(range(4), key=lambda i: reply["scores"][i])


def test_pooling_answers_as_vllm_does(client, scorer):
    marked = "<extra_0>".join([*STEPS, ""])
    chat = (
        "<|im_start|>system\nReason step by step.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{marked}<|im_end|><|endoftext|>"
    )
    reply = client.ask("/pooling", {"model": "any", "input": [prompt_text(trace()) + marked, chat]})
    assert {key: reply[key] for key in ("object", "model")} == {"object": "list", "model": "tiny"}
    assert reply["id"].startswith("pool-") and isinstance(reply["created"], int)
    assert [(row["index"], row["object"]) for row in reply["data"]] == [(0, "pooling"), (1, "pooling")]
    tokens = sum(len(one.input_ids) for one in scorer.encoder.encode([trace(), bare()], drop_long=False))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    assert reply["usage"] == usage | {"prompt_tokens_details": None}
    assert all(sum(pair) == pytest.approx(1) for row in reply["data"] for pair in row["data"])
    close([[right for _, right in row["data"]] for row in reply["data"]], scorer.score([trace(), bare()]))
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": marked}]
    assert client.ask("/pooling", {"messages": messages})["data"][0]["data"] == reply["data"][1]["data"]


def bare():
    return Trace(QUESTION, [Step(text) for text in STEPS])


def test_get_reward_reads_the_answer_behind_the_prompt(client, scorer):
    """As OpenRLHF decodes it: with special tokens, the prompt cut on the left where it was too long."""
    prompt = f"<|im_start|>user\n{prompt_text(trace())}<|im_end|>\n<|im_start|>assistant\n"
    answer = "\n\n".join(STEPS[:2]) + "<|im_end|>"
    body = {
        "query": ["<|begin|>" + prompt + answer, prompt[30:] + answer, prompt + "<|im_end|>"],
        "prompts": [prompt] * 3,
    }
    reply = client.ask("/get_reward", body | {"labels": ["", "", ""]})
    (scores,) = scorer.score([trace(*STEPS[:2])])
    close([reply["rewards"]], [[scores[-1], scores[-1], 0.0]])
    assert reply["scores"] == reply["rewards"]  # no gold
    close(reply["step_scores"], [scores, scores, []])


def test_get_reward_takes_question_database_and_gold_from_the_label(client, scorer, databases):
    gold = "SELECT COUNT(*) FROM singer WHERE age > 20"
    label = json.dumps({"db_id": "music", "gold_sql": gold, "question": QUESTION})
    answers = ["SELECT COUNT(*) FROM singer WHERE age >= 30", "SELECT COUNT(*) FROM singer", "I do not know."]
    body = {"query": [f"Q{a}" for a in answers], "prompts": ["Q"] * 3, "labels": [label] * 3}
    reply = client.ask("/get_reward", body)
    assert reply["scores"] == [1.0, 0.0, 0.0]
    read = client.ask(
        "/score", {"traces": [{"question": QUESTION, "db_id": "music", "sql": a} for a in answers[:2]]}
    )
    close(reply["step_scores"][:2], read["scores"])
    assert reply["rewards"] == [row[-1] for row in reply["step_scores"]]


def test_get_reward_of_an_answer_that_is_too_long_is_nothing(make_model, tokenizer):
    scorer = Scorer(make_model("llama", changes={"max_position_embeddings": 64}), tokenizer)
    with running(scorer) as client:
        long = "Count the rows. " * 50
        body = {"query": ["q" + long, "qCount."], "prompts": ["q", "q"], "labels": [None, None]}
        reply = client.ask("/get_reward", body)
        assert reply["rewards"][0] == 0.0 < reply["rewards"][1]
        assert reply["step_scores"][0] is None
        assert client.ask("/get_reward", {key: body[key][:1] for key in body})["rewards"] == [0.0]


def test_compute_score_is_rewardsqls(client, scorer):
    steps = ["S1 AS (SELECT * FROM singer WHERE age > 20)", "SELECT COUNT(*) FROM S1"]
    text = f"{QUESTION}\nWITH {steps[0]}, и {steps[1]} и"
    expected = scorer.score([Trace(QUESTION, [Step(step) for step in steps])])
    close([client.ask("/compute_score", {"input": text})["score"]], expected)


# --- bad clients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/score", b"{", 400, "not JSON"),
        ("/score", b'{"traces": "\xff"}', 400, "not UTF-8"),
        ("/score", b'{"traces": "\\ud800"}', 400, "half of a surrogate pair"),
        ("/score", b"[" * 100_000, 400, "nested too deeply"),
        ("/score", b"[]", 400, "the body must be a JSON object"),
        ("/score", {}, 400, "'traces' must be a non-empty list"),
        (
            "/score",
            {"traces": [trace().to_dict(), {"question": "q"}]},
            400,
            "trace 1 (from 0): 'steps' must be",
        ),
        (
            "/score",
            {"traces": [{"question": "q", "steps": ["a " * 3000]}]},
            400,
            "the model reads 2048; shorten",
        ),
        ("/score", {"traces": [{"question": "q", "db_id": "../music", "sql": "x"}]}, 400, "has no database"),
        ("/rerank", {"question": "q"}, 400, "'candidates' must be a non-empty list"),
        (
            "/rerank",
            {"question": "q", "candidates": [{"sql": "x"}], "choose": "any"},
            400,
            "'choose' must be",
        ),
        ("/rerank", {"question": "q", "candidates": [{"sql": "x"}], "choose": "vote"}, 400, "give 'db_id'"),
        ("/pooling", {"input": "q\nSteps:\nno mark"}, 400, "must stand behind each step"),
        ("/pooling", {"input": "a<extra_0>"}, 400, "where the steps begin is unknown"),
        ("/pooling", {"input": [1, 2]}, 400, "must be a text or a list of texts"),
        ("/get_reward", {"query": ["a"], "prompts": []}, 400, "0 'prompts' for 1 'query'"),
        ("/get_reward", {"query": ["a"], "prompts": ["b"]}, 400, "does not begin with its prompt"),
        ("/get_reward", {"query": ["qa"], "prompts": ["q"], "labels": ["x"]}, 400, "the label must be JSON"),
        ("/compute_score", {"input": "no mark"}, 400, "behind each step"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client, path, body, status, message):
    got, reply, _ = client.post(path, body)
    assert got == status and message in reply["error"]["message"], reply
    assert reply["error"]["code"] == status and reply["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_called_json_is_refused(client):
    status, reply, _ = client.post("/score", {"traces": []}, {"Content-Type": "text/plain"})
    assert status == 415 and "application/json" in reply["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_ten_megabytes_are_too_much(client, chunked):
    body = b" " * (10 << 20)
    status, reply, _ = client.post("/score", iter([body]) if chunked else body)
    assert status == 413 and "larger than 1,048,576 bytes" in reply["error"]["message"]
    assert client.ask("/score", {"traces": [trace().to_dict()]})


def test_too_many_tokens_in_one_request_are_too_much(make_model, tokenizer, monkeypatch):
    monkeypatch.setattr(serving, "MAX_REQUEST_FORWARDS", 2)
    with running(Scorer(make_model("llama"), tokenizer, max_tokens_per_batch=100)) as client:
        status, reply, _ = client.post(
            "/score", {"traces": [trace(question=f"Question {i}?").to_dict() for i in range(9)]}
        )
    assert status == 413 and "at most 200; send it in parts" in reply["error"]["message"]


def test_half_a_request_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.3)
    with client.raw() as nothing, client.raw() as head, client.raw() as body:
        head.sendall(b"POST /score HTTP/1.1\r\nHost:")
        body.sendall(request_head() + b'{"traces"')
        assert answer_of(body) == 408
        assert answer_of(head) is None and answer_of(nothing) is None
    with client.raw() as second:  # behind a good request on the same connection
        second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        assert answer_of(second) == 200
    assert client.ask("/score", {"traces": [trace().to_dict()]})


def test_what_is_no_http_at_all(client):
    with client.raw() as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4)
        assert answer_of(sock) in (400, None)
    assert client.ask("/score", {"traces": [trace().to_dict()]})


@contextlib.contextmanager
def held(scorer):
    """The model waits in its next forward; inside, `set` lets it go on."""
    arrived, go = threading.Event(), threading.Event()

    def wait(*_):
        arrived.set()
        assert go.wait(60)

    hook = scorer.model.head.register_forward_pre_hook(wait)
    go.arrived = arrived
    try:
        yield go
    finally:
        go.set()
        hook.remove()


def test_a_client_that_went_away_is_not_computed_for(client, scorer):
    gone = client.metric('prm_requests_total{path="/score",status="499"}')
    traces = client.metric("prm_traces_total")
    with held(scorer) as go, ThreadPoolExecutor(1) as pool:
        one = pool.submit(client.ask, "/score", {"traces": [trace(question="The first?").to_dict()]})
        go.arrived.wait(60)
        for i in range(3):
            body = json.dumps({"traces": [trace(question=f"Gone {i}?").to_dict()] * 5}).encode()
            with client.raw() as sock:
                sock.sendall(request_head(length=len(body)) + body)
                until(lambda: client.metric("prm_queue_requests") >= 2)
        until(lambda: client.metric('prm_requests_total{path="/score",status="499"}') == gone + 3)
        go.set()
        assert one.result()
    assert client.metric("prm_traces_total") == traces + 1
    assert client.metric("prm_queue_requests") == 0


def test_a_long_queue_answers_429_and_rewards_wait(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer, max_tokens_per_batch=100)
    with running(scorer, limits=Limits(max_wait=1e-9)) as client, ThreadPoolExecutor(64) as pool:
        client.ask("/score", {"traces": [trace().to_dict()]})
        with held(scorer) as go:
            several = [pool.submit(client.post, "/score", {"traces": [trace(question=f"{i}?").to_dict()]})
                       for i in range(40)]  # fmt: skip
            go.arrived.wait(60)
            until(lambda: any(future.done() for future in several))
            rewards = [
                pool.submit(client.post, "/get_reward", {"query": ["qCount."], "prompts": ["q"]})
                for _ in range(9)
            ]
            until(lambda: client.metric("prm_queue_requests") >= 9)
            go.set()
        answers = [future.result() for future in several]
        assert [future.result()[0] for future in rewards] == [200] * 9
    refused = [headers for status, _, headers in answers if status == 429]
    assert refused and {status for status, *_ in answers} == {200, 429}
    assert all(1 <= int(headers["Retry-After"]) <= 60 for headers in refused)


def test_a_request_that_waits_too_long_is_told_so(scorer):
    with running(scorer, limits=Limits(timeout=0.3)) as client, held(scorer):
        status, reply, headers = client.post("/score", {"traces": [trace(question="Late?").to_dict()]})
        assert status == 503 and "not finished within 0.3 seconds" in reply["error"]["message"]
        assert headers["Retry-After"]


# --- the batcher --------------------------------------------------------------------------------------------


def test_a_large_request_takes_turns_with_small_ones(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer, max_tokens_per_batch=150)
    batcher = Batcher(scorer, cache_bytes=0)
    large, _ = batcher.encode([trace(question=f"A long list, {i}?") for i in range(12)], drop_long=False)
    small, _ = batcher.encode([trace()], drop_long=False)
    order = []
    for name, job in (("large", large), ("small", small)):
        batcher.submit(job).add_done_callback(lambda _, name=name: order.append(name))
    batcher.start()
    batcher.stop()  # finishes what is queued
    assert order == ["small", "large"]
    assert len(large.future.result()) == 12


def test_a_request_that_breaks_the_model_breaks_no_other(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    batcher = Batcher(scorer, cache_bytes=1 << 28)
    longest = trace(*STEPS * 5)
    limit = len(scorer.encoder.encode([longest], drop_long=False)[0].input_ids)

    def fail(_, args, kwargs):
        if kwargs["position_ids"].max() + 1 >= limit:
            raise RuntimeError("out of memory")

    scorer.model.backbone.register_forward_pre_hook(fail, with_kwargs=True)
    jobs = [batcher.encode([one], drop_long=False)[0] for one in (trace(), longest, trace(STEPS[2]))]
    futures = [batcher.submit(job) for job in jobs]
    batcher.start()
    batcher.stop()
    with pytest.raises(RuntimeError, match="out of memory"):
        futures[1].result()
    assert [len(futures[i].result()[0]) for i in (0, 2)] == [3, 1]


def test_a_failure_on_the_server_says_500_and_health_goes_on(make_model, tokenizer):
    scorer = Scorer(make_model("llama"), tokenizer)
    with running(scorer) as client:

        def fail(*_):
            raise RuntimeError("secret detail")

        hook = scorer.model.head.register_forward_pre_hook(fail)
        status, reply, _ = client.post("/score", {"traces": [trace().to_dict()]})
        hook.remove()
        assert status == 500 and "secret" not in json.dumps(reply)
        assert client.ask("/score", {"traces": [trace().to_dict()]})


# --- keys, health, metrics ----------------------------------------------------------------------------------


def test_a_key_is_asked_for_everywhere_but_for_health_and_page(scorer):
    body = {"traces": [trace().to_dict()]}
    basic = base64.b64encode(b"user:s3cret").decode()
    with running(scorer, api_key="s3cret") as client:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"},
                      {"Authorization": "Basic ?"}, {"Authorization": "Bearer s3cret2"}):  # fmt: skip
            for path in ("/score", "/rerank", "/pooling", "/get_reward", "/compute_score"):
                status, reply, headers = client.post(path, body, given)
                assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
                assert "s3cret" not in json.dumps(reply)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                client.get("/metrics", given)
        for given in ("Bearer s3cret", "bearer s3cret", f"Basic {basic}"):
            assert client.post("/score", body, {"Authorization": given})[0] == 200
            assert "prm_requests_total" in client.get("/metrics", {"Authorization": given})
        assert json.loads(client.get("/health"))["status"] == "ok"
        assert "<form" in client.get("/")


def test_health_and_metrics(client):
    client.ask("/score", {"traces": [trace().to_dict()]})
    health = json.loads(client.get("/health"))
    assert health == {
        "status": "ok", "model": "tiny", "threshold": 0.5, "queue_requests": 0, "queue_seconds": 0.0,
    }  # fmt: skip
    lines = client.get("/metrics").splitlines()
    declared = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if not line.startswith("#"):
            name, value = re.fullmatch(r'([a-z_]+)(?:\{[a-zA-Z_"=,./0-9+]+\})? (\S+)', line).groups()
            assert re.sub("_(bucket|sum|count)$", "", name) in declared and float(value) >= 0
    count = client.metric('prm_request_seconds_count{path="/score"}')
    assert count == client.metric('prm_request_seconds_bucket{path="/score",le="+Inf"}') >= 1
    assert client.metric("prm_resident_bytes") > 1 << 20


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(scorer, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    scorer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def command(*options, **environment):
    """`prm serve` as a process; its client and the process."""
    words = [sys.executable, "-m", "prm.cli", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        first = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)$", first.strip())
        assert match, first + process.stderr.read()
        client = Client(int(match[1]))
        until(lambda: _answers(client))
        yield client, process
    finally:
        process.kill()
        process.wait()


def _answers(client):
    try:
        return client.get("/health")
    except OSError:
        return False


@pytest.mark.parametrize("by", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_finishes_what_is_queued_and_refuses_what_is_new(checkpoint, scorer, by):
    traces = [trace(question=f"How many singers are above {i}?") for i in range(60)]
    body = {"traces": [t.to_dict() for t in traces]}
    options = ["--model", checkpoint, "--max-tokens-per-batch", 200]
    with command(*options) as (client, process), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.ask, "/score", body) for _ in range(4)]
        until(lambda: client.metric("prm_forwards_total") >= 1)
        process.send_signal(by)
        until(lambda: not _answers(client))  # the door is closed at once
        for future in waiting:
            close(future.result()["scores"], scorer.score(traces))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_the_key_may_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.delenv("PRM_API_KEY", raising=False)
    assert serving.read_key(None) is None
    monkeypatch.setenv("PRM_API_KEY", "from-env")
    assert serving.read_key(None) == "from-env"
    assert serving.read_key(str(tmp_path / "key")) == "from-file"
    monkeypatch.setenv("PRM_API_KEY", "schlüssel")
    with pytest.raises(InputError, match="printable ASCII"):
        serving.read_key(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid:"),
        (["--port", "{taken}"], "give another --port"),
        (["--api-key-file", "{tmp}/none"], "the API key cannot be read"),
        (["--api-key-file", "{tmp}/empty"], "holds no API key"),
        (["--databases", "{tmp}/none"], "no such folder"),
        (["--model", "{tmp}/none"], "{tmp}/none"),
    ],
)
def test_what_cannot_be_served_ends_with_2_and_one_line(checkpoint, tmp_path, capsys, options, message):
    (tmp_path / "empty").write_text("")
    with contextlib.closing(serving._listen("127.0.0.1", 0)) as listener:
        names = {"tmp": tmp_path, "taken": listener.getsockname()[1]}
        options = [option.format(**names) for option in options]
        model = [] if "--model" in options else ["--model", str(checkpoint)]
        port = [] if "--port" in options else ["--port", "0"]
        assert main(["serve", *model, *port, *options]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("prm: ")]
    assert message.format(**names) in line
