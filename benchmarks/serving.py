"""`prm serve` under load, beside a loop that sends one request at a time.

    python benchmarks/serving.py --model runs/quickstart/checkpoint --data runs/quickstart/data/test.jsonl
        [--minutes 5] [--clients 32] --json FILE

The server is the real command in a process of its own, on loopback. Requests are of mixed sizes, as they come
in practice: half hold one trace, others the candidates of a question (up to 16), now and then thirty of many
questions; a tenth of all traces are new, the rest were seen before or share a prompt with one that was.
Three measurements, each on a fresh server:

* *one at a time*: one client that waits for each answer; without a prefix cache, and with it.
* *load*: `--clients` of them, each waiting for its own answers and, when told 429, for as long as Retry-After
  says. Beside them, once a second, a hostile one: killed in the middle, half a request, 10 MB, bytes that are
  no UTF-8, a wrong key. Every answer is checked against the scores of `prm score` on the same data.

The limit is what `prm score` does on the same traces in one file, with the machine to itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prm.traces.formats import load_traces, write_traces
from prm.traces.trace import Trace

KEY = "benchmark"
TOLERANCE = 1e-4  # the same arithmetic in another order


@dataclass
class Tally:
    """What the clients of one measurement saw."""

    seconds: list[float] = field(default_factory=list)  # of answers, waiting after a 429 not counted
    statuses: Counter[str] = field(default_factory=Counter)
    traces: int = 0
    largest_difference: float = 0.0
    hostile: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def percentile(self, share: float) -> float | None:
        ordered = sorted(self.seconds)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/checkpoint")
    parser.add_argument("--data", default="runs/quickstart/data/test.jsonl")
    parser.add_argument(
        "--scored", metavar="FILE", help="what `prm score` wrote of them, not to run it again"
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="of load; the loops get a tenth of it each"
    )
    parser.add_argument("--cache-mib", type=int, default=1024, help="of the server's prefix cache")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", required=True, metavar="FILE")
    args = parser.parse_args()
    alone: dict[str, float] = {}
    if args.scored:
        expected = load_traces(args.scored)
    else:
        expected, alone = score_file(args.model, args.data)
    rows = {}
    for name, clients, minutes, cache in (
        ("one at a time, no cache", 1, args.minutes / 10, 1),
        ("one at a time", 1, args.minutes / 10, args.cache_mib),
        (f"{args.clients} clients", args.clients, args.minutes, args.cache_mib),
    ):
        rows[name] = measure(args, expected, clients, minutes, cache)
        print(json.dumps({name: rows[name]}), flush=True)
    result = {"prm score": alone, "rows": rows, "model": args.model, "data": args.data, "seed": args.seed}
    Path(args.json).write_text(json.dumps(result, indent=1))
    print(table(result))


def score_file(model: str, data: str) -> tuple[list[Trace], dict[str, float]]:
    """The traces with what `prm score` says of them, and its rate without the loading of the model."""
    with tempfile.TemporaryDirectory() as folder:
        output, one = Path(folder) / "scored.jsonl", Path(folder) / "one.jsonl"
        write_traces(load_traces(data)[:1], one)
        seconds = []
        for file in (one, Path(data)):
            began = time.monotonic()
            command = [sys.executable, "-m", "prm.cli", "score", "--model", model, "--data", str(file)]
            subprocess.run([*command, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - began)
        traces = load_traces(output)
    return traces, {"traces_per_second": len(traces) / max(seconds[1] - seconds[0], 1e-9)}


# --- requests -----------------------------------------------------------------------------------------------


def requests(traces: list[Trace], rng: random.Random) -> Iterator[list[Trace]]:
    """Requests of mixed sizes without end; of a new question its number alone is new."""
    by_question: dict[str, list[Trace]] = {}
    for trace in traces:
        by_question.setdefault(trace.question_key, []).append(trace)
    groups = list(by_question.values())
    while True:
        kind = rng.random()
        if kind < 0.5:
            yield [rng.choice(traces)]
        elif kind < 0.9:
            group = rng.choice(groups)
            yield [rng.choice(group) for _ in range(rng.randint(2, 16))]
        else:
            yield rng.sample(traces, min(30, len(traces)))


def body_of(traces: list[Trace], rng: random.Random) -> bytes:
    rows = []
    for trace in traces:
        row: dict[str, Any] = {"question": trace.question, "schema": trace.schema}
        row["steps"] = [{"text": step.text} for step in trace.steps]
        if rng.random() < 0.1:  # a step more that nobody has seen; those before keep their scores
            row["steps"].append({"text": f"Keep the first {rng.randrange(10**9)} rows."})
        rows.append(row)
    return json.dumps({"traces": rows}).encode()


def client(port: int, traces: list[Trace], seed: int, end: float, tally: Tally) -> None:
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    for asked in requests(traces, rng):
        body = body_of(asked, rng)
        while True:
            if time.monotonic() > end:
                connection.close()
                return
            began = time.monotonic()
            try:
                connection.request("POST", "/score", body, headers)
                response = connection.getresponse()
                reply = json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                with tally.lock:
                    tally.statuses[type(error).__name__] += 1
                connection.close()
                continue
            with tally.lock:
                tally.statuses[str(response.status)] += 1
            if response.status == 429:
                time.sleep(float(response.headers["Retry-After"]) * rng.uniform(0.5, 1.5))
                continue
            break
        if response.status == 200:
            differences = [
                abs(score - right)
                for row, trace in zip(reply["scores"], asked, strict=True)
                for score, right in zip(row, trace.scores, strict=False)
            ]
            with tally.lock:
                tally.seconds.append(time.monotonic() - began)
                tally.traces += len(asked)
                tally.largest_difference = max(tally.largest_difference, *differences)


def hostile(port: int, traces: list[Trace], end: float, tally: Tally) -> None:
    """Once a second one of the clients that nobody wants; each must get the right answer, or none."""
    head = (
        "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
    )
    rng = random.Random(1)
    good = body_of(traces[:20], rng)

    def said(body: bytes, *, key: str = KEY, length: int | None = None, wait: bool = True) -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
            size = len(body) if length is None else length
            sock.sendall((head.format(key=key) + f"Content-Length: {size}\r\n\r\n").encode())
            with contextlib.suppress(ConnectionError):
                sock.sendall(body)
            if not wait:
                return "gone"
            answer = sock.recv(65536)
            return answer.split()[1].decode() if answer else "closed"

    kinds = {
        "killed": (lambda: said(good, wait=False), "gone"),
        "half sent": (lambda: said(good[:50], length=len(good)), "408"),
        "10 MB": (lambda: said(b" " * (10 << 20)), "413"),
        "invalid UTF-8": (lambda: said(b'{"traces": "\xff\xfe"}'), "400"),
        "wrong key": (lambda: said(good, key="guess"), "401"),
    }
    threads = []

    def one(name: str) -> None:
        ask, right = kinds[name]
        try:
            answer = ask()
        except OSError as error:
            answer = type(error).__name__
        with tally.lock:
            tally.hostile[f"{name}: {answer}"] += 1
            if answer != right:
                tally.wrong.append(f"{name}: {answer}, not {right}")

    names = list(kinds)
    turn = 0
    while time.monotonic() < end:
        threads.append(threading.Thread(target=one, args=(names[turn % len(names)],)))
        threads[-1].start()
        turn += 1
        time.sleep(1)
    for thread in threads:
        thread.join()


# --- measuring ----------------------------------------------------------------------------------------------


def measure(
    args: argparse.Namespace, expected: list[Trace], clients: int, minutes: float, cache_mib: int
) -> dict[str, Any]:
    with serving(args.model, cache_mib) as (port, process):
        get(port, "/metrics")
        tally = Tally()
        began = time.monotonic()
        end = began + 60 * minutes
        threads = [
            threading.Thread(target=client, args=(port, expected, args.seed + k, end, tally))
            for k in range(clients)
        ]
        if clients > 1:
            threads.append(threading.Thread(target=hostile, args=(port, expected, end, tally)))
        for thread in threads:
            thread.start()
        resident, cached = [], []
        while time.monotonic() < end:
            time.sleep(min(5.0, max(end - time.monotonic(), 0.01)))
            metrics = get(port, "/metrics")
            resident.append(gauge(metrics, "prm_resident_bytes"))
            cached.append(gauge(metrics, "prm_cache_bytes"))
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        metrics = get(port, "/metrics")
        process.terminate()
        status = process.wait(300)
    errors = {name: n for name, n in tally.statuses.items() if name not in ("200", "429")}
    computed, shared = (gauge(metrics, f'prm_tokens_total{{kind="{k}"}}') for k in ("computed", "shared"))
    return {
        "requests": len(tally.seconds), "requests_per_second": len(tally.seconds) / seconds,
        "traces_per_second": tally.traces / seconds,
        "p50": tally.percentile(0.5), "p99": tally.percentile(0.99),
        "refused": tally.statuses["429"], "errors": errors,
        "hostile": dict(tally.hostile), "wrong": tally.wrong,
        "computed_share": computed / max(computed + shared, 1),
        "resident_mib": [round(value / 2**20) for value in resident],
        "cache_mib": [round(value / 2**20) for value in cached],
        "largest_difference": tally.largest_difference, "exit_status": status,
    }  # fmt: skip


@contextlib.contextmanager
def serving(model: str, cache_mib: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "prm.cli", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cache-mib", str(cache_mib)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PRM_API_KEY": KEY},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = int(re.search(r":(\d+)$", process.stdout.readline().strip())[1])
        while True:
            with contextlib.suppress(OSError):
                get(port, "/health")
                break
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str) -> str:
    headers = {"Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


def gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.M)
    return float(found[1]) if found else 0.0


def table(result: dict[str, Any]) -> str:
    columns = ["", "requests/s", "traces/s", "p50, s", "p99, s", "429", "other errors", "tokens computed"]
    lines = [
        "| " + " | ".join([*columns, "MiB after 5 s, at the end (of it cache)"]) + " |",
        "|---" * 9 + "|",
    ]
    for name, row in result["rows"].items():
        resident = row["resident_mib"]
        figures = [f"{row['requests_per_second']:.1f}", f"{row['traces_per_second']:.1f}"]
        figures += [f"{row['p50']:.2f}", f"{row['p99']:.2f}", str(row["refused"])]
        figures += [str(sum(row["errors"].values())), f"{row['computed_share']:.0%}"]
        lines.append(
            "| "
            + " | ".join([name, *figures, f"{resident[0]:,}, {resident[-1]:,} ({row['cache_mib'][-1]:,})"])
            + " |"
        )
    lines.append("")
    if alone := result["prm score"]:
        lines.append(f"`prm score` on the file: {alone['traces_per_second']:.1f} traces/s")
    worst = max(row["largest_difference"] for row in result["rows"].values())
    lines.append(f"largest difference from it: {worst:.1g} ({'equal' if worst < TOLERANCE else 'NOT EQUAL'})")
    for name, row in result["rows"].items():
        if row["hostile"]:
            lines.append(f"hostile, {name}: {row['hostile']}; wrong answers: {row['wrong'] or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
