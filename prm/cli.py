"""The `prm` command: one thin subcommand per verb, each importing its room only when it is called.

Exit status: 0 done; 2 bad usage or bad input (one line on stderr naming the file, the line and the mend); 130
interrupted; 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prm import __version__
from prm.errors import InputError

LABELS_HELP = "prefix: fold labels that return to 1 after a 0, and count how many were folded"
BAD_ROWS_HELP = "stop at the first malformed row (default), or skip and count them"


def _train(args: argparse.Namespace) -> None:
    from prm.train import main as train

    train([args.recipe, *args.overrides])


def _build(args: argparse.Namespace) -> None:
    from prm.labeling.build import build

    build(
        layout=args.layout,
        root=args.root,
        split=args.split,
        output=args.output,
        seed=args.seed,
        workers=args.workers,
        shard=args.shard,
        wrong_per_question=args.wrong_per_question,
        limit=args.limit,
        timeout=args.timeout,
        database_url=args.database_url,
    )


def _convert(args: argparse.Namespace) -> None:
    from prm.traces.formats import convert

    convert(
        args.input,
        args.output,
        format=args.format,
        labels=args.labels,
        on_bad_rows=args.on_bad_rows,
        split=args.split,
    )


def _inspect(args: argparse.Namespace) -> None:
    from prm.traces.inspection import inspect

    inspect(
        args.files, split=args.split, labels=args.labels, on_bad_rows=args.on_bad_rows, json_output=args.json
    )


def _score(args: argparse.Namespace) -> None:
    from prm.inference.scoring import score_file

    score_file(
        args.model,
        args.data,
        args.output,
        max_tokens_per_batch=args.max_tokens_per_batch,
        dtype=args.dtype,
        revision=args.revision,
        base_model=args.base_model,
        trust_remote_code=args.trust_remote_code,
        labels=args.labels,
        on_bad_rows=args.on_bad_rows,
    )


def _evaluate(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.predictions is None):
        raise InputError("prm evaluate wants either --model with --data, or --predictions")
    if args.predictions is not None:
        for option in ("data", "all_checkpoints"):
            if getattr(args, option):
                raise InputError(
                    f"--{option.replace('_', '-')} goes with --model; --predictions holds the labels itself"
                )
        from prm.evaluation.report import evaluate_predictions

        evaluate_predictions(
            args.predictions,
            args.output,
            threshold=args.threshold,
            threshold_data=args.threshold_data,
            rule=args.rule,
            train_data=args.train_data,
            labels=args.labels,
            on_bad_rows=args.on_bad_rows,
        )
        return
    if args.train_data:
        raise InputError(
            "--train-data goes with --predictions; a model knows its training data's baseline itself"
        )
    if not args.data:
        raise InputError("prm evaluate --model wants --data FILE with labelled traces")
    from prm.measure import evaluate_model

    evaluate_model(
        args.model,
        args.data,
        args.output,
        all_checkpoints=args.all_checkpoints,
        threshold=args.threshold,
        threshold_data=args.threshold_data,
        rule=args.rule,
        max_tokens_per_batch=args.max_tokens_per_batch,
        dtype=args.dtype,
        revision=args.revision,
        base_model=args.base_model,
        trust_remote_code=args.trust_remote_code,
        labels=args.labels,
        on_bad_rows=args.on_bad_rows,
    )


def _threshold(value: str) -> float | str:
    """`--threshold`: a number in [0, 1], or `oracle`: chosen on the evaluated data itself (and said so)."""
    if value == "oracle":
        return value
    with suppress(ValueError):
        if 0 <= float(value) <= 1:
            return float(value)
    raise argparse.ArgumentTypeError(f"must be a number in [0, 1] or 'oracle', not {value!r}")


def _positive(value: str) -> int:
    with suppress(ValueError):
        if int(value) >= 1:
            return int(value)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {value!r}")


def _shard(value: str) -> tuple[int, int]:
    """`--shard I/N`: the I-th (from 1) of N equal parts of the questions."""
    left, _, right = value.partition("/")
    with suppress(ValueError):
        if 1 <= int(left) <= int(right):
            return int(left), int(right)
    raise argparse.ArgumentTypeError(f"must be I/N with whole numbers 1 <= I <= N, as 1/4, not {value!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prm", description="Train, measure and use process reward models for text-to-SQL."
    )
    parser.add_argument("--version", action="version", version=f"prm {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    def rows(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--labels", choices=["strict", "prefix"], default="strict", help=LABELS_HELP)
        sub.add_argument("--on-bad-rows", choices=["stop", "skip"], default="stop", help=BAD_ROWS_HELP)

    def forward(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--max-tokens-per-batch", type=_positive, default=8192, help="tokens in one forward")
        sub.add_argument(
            "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the backbone"
        )
        sub.add_argument("--revision", help="of the model on the Hub")
        sub.add_argument(
            "--base-model", metavar="MODEL", help="folder or Hub id of the base model, if it has moved"
        )
        sub.add_argument(
            "--trust-remote-code", action="store_true", help="run code that the base model brings"
        )

    sub = verb("train", _train, "train, evaluate and save a PRM from a recipe (one process)")
    sub.add_argument("recipe", help="YAML file; accelerate launch prm/train.py takes the same arguments")
    sub.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--key value", help="override keys of the recipe"
    )

    sub = verb("build", _build, "labelled traces out of databases, questions and gold SQL")
    sub.add_argument("--layout", choices=["spider", "bird", "table"], required=True)
    sub.add_argument(
        "--root", required=True, help="the data set's folder; for --layout table the JSONL or CSV file"
    )
    sub.add_argument("--split", help="train, dev, test … (spider, bird)")
    sub.add_argument(
        "--database-url",
        metavar="URL",
        help="instead of SQLite files: duckdb:///PATH or postgresql://…, {db_id} for the question's database",
    )
    sub.add_argument("--output", required=True, help="JSONL file to write")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--workers", type=_positive, default=1, help="processes")
    sub.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="this machine's part of the questions"
    )
    sub.add_argument(
        "--wrong-per-question", type=_positive, default=4, help="wrong traces at most for each question"
    )
    sub.add_argument("--limit", type=_positive, help="only the first questions")
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")

    sub = verb("convert", _convert, "other people's step formats into traces")
    sub.add_argument(
        "--from",
        dest="format",
        required=True,
        help="auto (by the columns), native, trl, math-shepherd, prm800k, processbench, verdict",
    )
    sub.add_argument("--input", required=True, help="file, folder or Hub id")
    sub.add_argument("--split", help="of a Hub data set or a folder")
    sub.add_argument("--output", required=True, help="JSONL or Parquet file to write")
    rows(sub)

    sub = verb("inspect", _inspect, "check trace files and show their statistics")
    sub.add_argument("files", nargs="+", metavar="FILE", help="file, folder or Hub id")
    sub.add_argument("--split", help="of a Hub data set or a folder")
    sub.add_argument("--json", metavar="FILE", help="write the statistics for programs, too")
    rows(sub)

    sub = verb("score", _score, "score every step of the traces in a file")
    sub.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    sub.add_argument("--data", required=True, nargs="+", metavar="FILE")
    sub.add_argument("--output", required=True, help="JSONL file with a 'scores' list in every trace")
    forward(sub)
    rows(sub)

    sub = verb("evaluate", _evaluate, "measure a model, all checkpoints of a run, or a scored file")
    sub.add_argument("--model", help="checkpoint folder, run folder or Hub id")
    sub.add_argument(
        "--all-checkpoints", action="store_true", help="every checkpoint-* of the run folder --model"
    )
    sub.add_argument("--data", nargs="+", metavar="FILE", help="labelled traces")
    sub.add_argument(
        "--predictions", nargs="+", metavar="FILE", help="scored traces from anywhere (needs no torch)"
    )
    sub.add_argument(
        "--output", required=True, help="folder for metrics.json, predictions.jsonl, report.html"
    )
    sub.add_argument(
        "--threshold", type=_threshold, metavar="T", help="number, or 'oracle' (chosen on the data itself)"
    )
    sub.add_argument(
        "--threshold-data", nargs="+", metavar="FILE", help="dev traces to choose the threshold on"
    )
    sub.add_argument(
        "--train-data", nargs="+", metavar="FILE", help="for the position_only baseline (--predictions)"
    )
    sub.add_argument("--rule", choices=["threshold", "most-likely"], default="threshold")
    forward(sub)
    rows(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except InputError as error:
        print(f"prm: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("prm: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
