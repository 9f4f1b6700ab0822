"""Products with frozen float32 weights: oneDNN beside MKL, in the shapes of a small backbone's layers.

    python benchmarks/products.py [--tokens 128 256 512 1024 2048]

Of each number of tokens both libraries multiply, by turns, all shapes of a SmolLM2-135M layer, forward and
backward; the ratio of the medians of nine turns is printed. `prm.modeling.products` goes by it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from prm.jobs.memory import keep_freed_memory

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]  # (out, in)
TURNS, SECONDS = 9, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=[128, 256, 512, 1024, 2048])
    args = parser.parse_args()
    keep_freed_memory()
    import torch

    from prm.modeling.products import prefers_onednn

    onednn = torch.ops.mkldnn._linear_pointwise
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in SHAPES]
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "unknown")
    print(f"{os.cpu_count()} cores of {cpu}; chosen: {'oneDNN' if prefers_onednn() else 'MKL'}\n")
    print("| tokens | MKL GFLOP/s | oneDNN GFLOP/s | oneDNN is so many times as fast |\n|---|---|---|---|")
    for tokens in args.tokens:
        pairs = [(torch.randn(tokens, w.shape[1]), torch.randn(tokens, w.shape[0])) for w in weights]

        def mkl(pairs=pairs) -> None:
            for (x, gradient), weight in zip(pairs, weights, strict=True):
                torch.nn.functional.linear(x, weight)
                torch.mm(gradient, weight)

        def dnn(pairs=pairs) -> None:
            for (x, gradient), weight in zip(pairs, weights, strict=True):
                onednn(x, weight, None, "none", [], "")
                onednn(gradient, weight.T, None, "none", [], "")

        took: dict[str, list[float]] = {"mkl": [], "dnn": []}
        with torch.inference_mode():
            for _ in range(TURNS):
                for name, products in (("mkl", mkl), ("dnn", dnn)):
                    products()
                    done, start = 0, time.perf_counter()
                    while (seconds := time.perf_counter() - start) < SECONDS:
                        products()
                        done += 1
                    took[name].append(seconds / done)
        a, b = (statistics.median(took[name]) for name in ("mkl", "dnn"))
        flops = 4 * tokens * sum(w.numel() for w in weights) / 1e9
        print(f"| {tokens:,} | {flops / a:.0f} | {flops / b:.0f} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
