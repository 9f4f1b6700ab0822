"""A checkpoint to the Hub and back, with the connection killed half-way: what is sent, and what comes down.

    python benchmarks/hub.py --model runs/spider/checkpoint --data data/spider/dev.jsonl

The Hub is the small one of the tests, on loopback; the client is huggingface_hub as it is, through
`prm push`, which is killed (SIGKILL) once half of the largest file has been sent, and run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from hub_server import environment, serving_hub, sha256

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="traces, of which the first are scored")
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--merge", action="store_true", help="push a whole model")
    args = parser.parse_args()
    folder = Path(args.model)
    largest = max(folder.rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    with serving_hub() as hub, tempfile.TemporaryDirectory() as home:
        env = os.environ | environment(hub, home) | {"PYTHONPATH": str(ROOT)}
        push = [sys.executable, "-m", "prm.cli", "push", "--model", str(folder), "--repo", "me/prm"]
        push += ["--merge"] if args.merge else []
        held = None if args.merge else sha256(largest.read_bytes())
        size = None if args.merge else largest.stat().st_size

        def hold(oid: str, received: int) -> bool:
            return (held is None or oid == held) and received >= (size or 1 << 25) // 2

        hub.hold = hold
        first = subprocess.Popen(push, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not hub.held.wait(0.5):
            assert first.poll() is None, first.communicate()
        time.sleep(1)  # the smaller files are sent beside it
        first.kill()
        first.communicate()
        before, hub.hold = hub.received, lambda oid, received: False
        visible = sorted(hub.repos["me/prm"].files())
        start = time.perf_counter()
        subprocess.run(push, env=env, check=True, capture_output=True)
        seconds = time.perf_counter() - start

        base = json.loads((folder / "config.json").read_text())["base_model_name_or_path"]
        some = Path(home) / "some.jsonl"
        some.write_text("".join(Path(args.data).read_text().splitlines(keepends=True)[: args.traces]))
        scores = []
        for name in (str(folder), "me/prm"):
            output = Path(home) / "scored.jsonl"
            score = [sys.executable, "-m", "prm.cli", "score", "--model", name, "--data", str(some)]
            score += ["--output", str(output)] + ([] if args.merge else ["--base-model", base])
            subprocess.run(score, env=env, check=True, capture_output=True)
            scores.append([x for line in output.read_text().splitlines() for x in json.loads(line)["scores"]])
        found = {
            "large files, bytes": sorted(len(data) for data in hub.lfs.values()),
            "visible after the kill": visible,
            "sent until the kill": before,
            "sent by the second push": hub.received - before,
            "times each large file was begun": sorted(hub.sent.values()),
            "second push, seconds": round(seconds, 1),
            "largest difference of a score": max(abs(a - b) for a, b in zip(*scores, strict=True)),
        }
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
