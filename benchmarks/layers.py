"""Which layer to read, and what standardising the head's input is worth: the quickstart's data, a frozen
backbone.

    make quickstart && python benchmarks/layers.py [--layers 12 30] [--seeds 0 1 2]

Each run is recipes/quickstart.yaml with another number of layers or another seed; a run without standardising
shows the head the raw states. Features are computed once for each number of layers. Prints test metrics,
means over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prm.modeling import PRMHead
from prm.train import main as train

RECIPE = "recipes/quickstart.yaml"
SHOWN = ("step_auc", "f1", "first_error_acc")


def metrics(layers: int, seed: int, folder: Path, *, standardised: bool) -> dict[str, float]:
    """Test metrics of one run; done already, they are read."""
    run = folder / f"{layers}-layers-{seed}{'' if standardised else '-raw'}"
    if not (run / "eval" / "metrics.json").exists():
        standardise = PRMHead.standardise
        if not standardised:
            PRMHead.standardise = lambda self, states: None
        try:
            words = {
                "backbone_layers": layers, "seed": seed, "output_dir": run, "report_to": "none",
                "features_dir": folder / "features",
            }  # fmt: skip
            train([RECIPE, *(word for key, value in words.items() for word in (f"--{key}", str(value)))])
        finally:
            PRMHead.standardise = standardise
    return json.loads((run / "eval" / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/layers"))
    args = parser.parse_args()
    rows = []
    for layers in args.layers:
        for standardised in (True, False):
            found = [metrics(layers, seed, args.output, standardised=standardised) for seed in args.seeds]
            means = [sum(m[key] for m in found) / len(found) for key in SHOWN]
            rows.append((layers, "yes" if standardised else "no", *(f"{mean:.3f}" for mean in means)))
    print("| layers | standardised |", " | ".join(SHOWN), "|")
    print("|---" * (2 + len(SHOWN)) + "|")
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")


if __name__ == "__main__":
    main()
