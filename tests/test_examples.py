"""`examples/serving`: the commands in the compose file exist, and the balancer's file does what it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from test_serving import QUESTION, SCHEMA, STEPS, Client, held, running, until

from prm.cli import _parser
from prm.inference.scoring import Scorer
from prm.inference.serving import Limits

SERVING = Path(__file__).parent.parent / "examples" / "serving"


def test_the_compose_files_servers_start_with_options_that_exist():
    services = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]
    servers = {name: service for name, service in services.items() if "build" in service}
    for service in servers.values():
        program, *words = shlex.split(service["command"])
        args = _parser().parse_args(words)
        assert program == "prm" and args.run and args.port == 8080
        assert (SERVING / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for upstream in re.findall(r"upstream \w+ \{(.*?)\}", (SERVING / "nginx.conf").read_text(), re.DOTALL):
        assert re.findall(r"server ([\w-]+):8080;", upstream) == list(servers)


@contextmanager
def balancing(folder, ports):
    """nginx with the example's file, in front of servers on these ports."""
    text = (SERVING / "nginx.conf").read_text()
    for number, port in enumerate(ports):
        text = text.replace(f"prm-{number}:8080", f"127.0.0.1:{port}")
    free = _free_port()
    text = text.replace("listen 8080", f"listen 127.0.0.1:{free}")
    file = folder / "nginx.conf"
    file.write_text(f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n" + text.replace(
        "http {", f"http {{\n    access_log off;\n    client_body_temp_path {folder}/body;"
        f"\n    proxy_temp_path {folder}/proxy;", 1
    ))  # fmt: skip
    process = subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-c", str(file)])
    client = Client(free)
    try:
        until(lambda: process.poll() is None and _is_up(client))
        yield client
    finally:
        process.terminate()
        process.wait()


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _is_up(client):
    try:
        return client.get("/health")
    except OSError:
        return False


@pytest.mark.skipif(not shutil.which("nginx"), reason="wants nginx")
def test_the_balancer_sends_like_to_like_and_goes_on_to_the_other_server(make_model, tokenizer, tmp_path):
    scorers = [Scorer(make_model(), tokenizer, max_tokens_per_batch=100) for _ in range(2)]
    limits = Limits(max_wait=1e-9)
    body = {"traces": [{"question": QUESTION, "schema": SCHEMA, "steps": STEPS}]}
    with (
        running(scorers[0], limits=limits) as one,
        running(scorers[1], limits=limits) as other,
        balancing(tmp_path, [one.port, other.port]) as client,
    ):
        for _ in range(6):
            assert client.post("/score", body, {"X-Affinity": "music"})[0] == 200
        asked = [c.metric('prm_requests_total{path="/score",status="200"}') for c in (one, other)]
        assert sorted(asked) == [0, 6]
        busy = 0 if asked[0] else 1
        with held(scorers[busy]) as go:
            tokens = {"traces": [{"question": f"{QUESTION} {i}", "steps": STEPS} for i in range(20)]}
            request = urllib.request.Request(
                f"http://127.0.0.1:{(one, other)[busy].port}/get_reward",
                json.dumps({"query": ["q" + "Count. " * 300] * 2, "prompts": ["q"] * 2}).encode(),
                {"Content-Type": "application/json"},
            )
            waiting = threading.Thread(target=lambda: urllib.request.urlopen(request).close())
            waiting.start()
            go.arrived.wait(60)
            assert client.post("/score", tokens, {"X-Affinity": "music"})[0] == 200  # 429 there, so here
            go.set()
            waiting.join()
        assert (one, other)[1 - busy].metric('prm_requests_total{path="/score",status="200"}') == 1
