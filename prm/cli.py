"""The `prm` command: one thin subcommand per verb, each importing its room only when it is called.

Exit status: 0 done; 2 bad usage or bad input (one line on stderr naming the file, the line and the mend); 130
interrupted; 1 anything else.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm import __version__
from prm.errors import InputError
from prm.jobs.memory import keep_freed_memory

if TYPE_CHECKING:
    from prm.inference.policies import Policy

LABELS_HELP = "prefix: fold labels that return to 1 after a 0, and count how many were folded"
AGGREGATES = ["last", "min", "mean", "product", "length-normalised-product", "no-error"]
BAD_ROWS_HELP = "stop at the first malformed row (default), or skip and count them"


def _train(args: argparse.Namespace) -> None:
    from prm.train import main as train

    train([args.recipe, *args.overrides])


def _plan(args: argparse.Namespace) -> None:
    # What stands behind the recipe is a mixture: our options, and keys of the recipe.
    options = argparse.ArgumentParser(prog="prm plan", allow_abbrev=False, add_help=False)
    _plan_options(options)
    args, overrides = options.parse_known_args(args.overrides, argparse.Namespace(**vars(args)))
    if args.gpu_memory is None:
        raise InputError("prm plan wants --gpu-memory, the memory of one GPU, like 24GiB")
    from prm.modeling.planning import plan_recipe

    plan_recipe(
        [args.recipe, *overrides],
        memory=args.gpu_memory,
        processes=args.processes or 1,
        device=args.device or "cuda",
        json_output=args.json,
    )


def _plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu-memory", metavar="SIZE", help="of one GPU, like 24GiB (of a process, if cpu)")
    parser.add_argument("--processes", type=_positive, help="GPUs that train together (1)")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="what it is to run on (cuda)")
    parser.add_argument("--json", metavar="FILE", help="write the figures in bytes for programs, too")


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
        right_per_question=args.right_per_question,
        wrong_per_question=args.wrong_per_question,
        errors=args.errors,
        max_errors=args.max_errors,
        hard_negatives=args.hard_negatives,
        styles=args.styles,
        limit=args.limit,
        timeout=args.timeout,
        database_url=args.database_url,
    )


def _label(args: argparse.Namespace) -> None:
    from prm.labeling.answers import label

    label(
        args.data,
        args.databases,
        args.output,
        workers=args.workers,
        timeout=args.timeout,
        on_bad_rows=args.on_bad_rows,
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


def _policy(args: argparse.Namespace) -> Policy:
    """The model that writes answers or verdicts: the server's at `--base-url`, or one in this process."""
    from prm.inference.policies import Sampling, ServerPolicy, TransformersPolicy

    sampling = Sampling(args.temperature, args.top_p, args.max_new_tokens)
    if args.base_url is not None:
        for option in ("dtype", "revision", "trust_remote_code", "batch_size"):
            if getattr(args, option):
                raise InputError(f"--{option.replace('_', '-')} is the server's business; leave it out")
        return ServerPolicy(
            args.base_url,
            args.model,
            sampling,
            api=args.api or "chat",
            concurrency=args.concurrency or 8,
            timeout=args.request_timeout or 300.0,
            api_key_env=args.api_key_env or "OPENAI_API_KEY",
        )
    for option in ("api", "concurrency", "request_timeout", "api_key_env"):
        if getattr(args, option):
            raise InputError(f"--{option.replace('_', '-')} goes with --base-url")
    keep_freed_memory()
    return TransformersPolicy(
        args.model,
        sampling,
        batch_size=args.batch_size or 16,
        dtype=args.dtype or "auto",
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
    )


def _typed(verb: str, args: argparse.Namespace) -> str:
    """The command as a data card may show it: of files and folders only the last name."""
    from prm.traces.provenance import command

    options = {name: value for name, value in vars(args).items() if name != "run"}
    files = [Path(options.pop(name)) for name in ("first", "second") if name in options]
    for name in ("data", "databases", "root", "output", "trees", "report"):
        value = options.get(name)
        if value is not None:
            options[name] = [Path(file) for file in value] if isinstance(value, list) else Path(value)
    for name in ("model", "policy", "base_model"):
        given = options.get(name)
        if given is not None:
            named = given if isinstance(given, list) else [given]
            options[name] = [Path(one) if Path(one).is_dir() else one for one in named]
    return command(verb, options, files)


def _rollout(args: argparse.Namespace) -> None:
    from prm.labeling.monte_carlo import Plan, label_answers, sample_and_label

    plan = Plan(
        rollouts=args.rollouts,
        label=args.labels,
        search=args.search,
        max_rollouts=args.max_rollouts,
        samples=args.samples or 4,
        per_request=args.samples_per_request,
        form=args.form or "sentences",
        seed=args.seed,
        timeout=args.timeout,
    )
    price = tuple(args.price) if args.price else None
    if args.data:
        for option in ("layout", "root", "split", "limit", "samples", "form"):
            if getattr(args, option):
                raise InputError(
                    f"--{option} goes with questions to answer; --data brings answers and wants --databases"
                )
        if not args.databases:
            raise InputError("--data wants --databases, the folder that holds <db_id>/<db_id>.sqlite")
        from prm.traces.formats import load_traces

        traces = load_traces(args.data, labels="prefix", on_bad_rows=args.on_bad_rows)  # they are replaced
        label_answers(
            traces,
            args.databases,
            _policy(args),
            args.output,
            plan,
            price=price,
            command=_typed("rollout", args),
        )
        return
    if not args.layout or not args.root:
        raise InputError(
            "prm rollout wants --data with answers, or --layout and --root with questions to answer"
        )
    if args.databases:
        raise InputError("--databases goes with --data; a --layout knows where its databases are")
    from prm.labeling.build import read_questions

    questions = read_questions(args.layout, args.root, args.split)[: args.limit]
    sample_and_label(
        questions, _policy(args), args.output, plan, price=price, command=_typed("rollout", args)
    )


def _decode(args: argparse.Namespace) -> None:
    from prm.decode import decode, of_layout, push, read_questions_file
    from prm.inference.scoring import load_scorer
    from prm.inference.search import Plan

    options = (
        "method", "n", "beam_width", "lookahead", "aggregate", "particle_temperature", "max_steps",
        "max_tokens", "max_prm_calls", "on_error", "form", "seed",
    )  # fmt: skip
    plan = Plan(
        **{name: getattr(args, name) for name in options},
        delimiter=args.delimiter.replace("\\n", "\n"),
        filter_duplicates=not args.keep_duplicates,
        sort_finished=not args.keep_order,
    )
    if plan.method != "greedy" and args.temperature == 0:
        raise InputError(f"--method {plan.method} wants answers that differ; --temperature must be above 0")
    if args.data:
        if args.layout or args.root or args.split:
            raise InputError("--layout, --root and --split go without --data")
        questions = read_questions_file(
            args.data, args.databases, on_bad_rows=args.on_bad_rows, limit=args.limit
        )
    else:
        if not args.layout or not args.root:
            raise InputError("prm decode wants --data with questions, or --layout and --root")
        if args.databases:
            raise InputError("--databases goes with --data; a --layout knows where its databases are")
        from prm.traces.questions import read_questions

        questions = of_layout(read_questions(args.layout, args.root, args.split)[: args.limit])
    of_policy = {"model": args.policy, "dtype": args.policy_dtype, "revision": args.policy_revision}
    if args.base_url is not None:
        of_policy["trust_remote_code"] = False  # it is for the PRM then
    policy = _policy(argparse.Namespace(**vars(args) | of_policy))
    command = _typed("decode", args)
    decode(
        questions,
        policy,
        load_scorer(args.model, **_loading(args)),
        args.output,
        plan,
        prm_name=" + ".join(Path(one).name if Path(one).is_dir() else one for one in args.model),
        trees=args.trees,
        report=args.report,
        timeout=args.timeout,
        price=tuple(args.price) if args.price else None,
        command=command,
    )
    if args.push_to_hub:
        push(args.push_to_hub, args.output, private=args.private)


def _judge(args: argparse.Namespace) -> None:
    from prm.labeling.judge import judge
    from prm.traces.formats import load_traces

    traces = load_traces(args.data, labels=args.labels, on_bad_rows=args.on_bad_rows)
    price = tuple(args.price) if args.price else None
    judge(
        traces,
        _policy(args),
        args.output,
        databases=args.databases,
        seed=args.seed,
        tries=args.tries,
        price=price,
        command=_typed("judge", args),
    )


def _consensus(args: argparse.Namespace) -> None:
    from prm.labeling.judge import consensus
    from prm.traces.formats import read_traces

    options = {"labels": args.labels, "on_bad_rows": args.on_bad_rows}
    consensus(
        read_traces(args.first, **options),
        read_traces(args.second, **options),
        args.output,
        keep=args.keep,
        command=_typed("consensus", args),
    )


def _inspect(args: argparse.Namespace) -> None:
    if args.databases is not None or args.database_url is not None:
        from prm.labeling.verify import verify

        verify(
            args.files,
            args.databases,
            database_url=args.database_url,
            workers=args.workers,
            timeout=args.timeout,
            split=args.split,
            labels=args.labels,
            json_output=args.json,
        )
        return
    from prm.traces.inspection import inspect

    inspect(
        args.files, split=args.split, labels=args.labels, on_bad_rows=args.on_bad_rows, json_output=args.json
    )


def _loading(args: argparse.Namespace) -> dict[str, Any]:
    """What `prm.inference.scoring.load_scorer` wants beside the models."""
    keep_freed_memory()
    return {
        "combine": args.combine,
        "k": args.k,
        "revisions": args.revision,
        "base_models": args.base_model,
        "foreign": args.foreign,
        "step_separators": args.step_separator,
        "dtype": args.dtype,
        "max_tokens_per_batch": args.max_tokens_per_batch,
        "trust_remote_code": args.trust_remote_code,
    }


def _score(args: argparse.Namespace) -> None:
    from prm.inference.scoring import score_file

    score_file(
        args.model,
        args.data,
        args.output,
        labels=args.labels,
        on_bad_rows=args.on_bad_rows,
        to_label=args.disagreement,
        **_loading(args),
    )


def _rerank(args: argparse.Namespace) -> None:
    from prm.inference.choosing import Rule
    from prm.inference.reranking import rerank_file

    rerank_file(
        args.data,
        args.output,
        Rule(args.choose, args.aggregate, args.drop_failing, args.drop_empty),
        models=args.model or [],
        databases=args.databases,
        workers=args.workers,
        timeout=args.timeout,
        on_bad_rows=args.on_bad_rows,
        seed=args.seed,
        **_loading(args),
    )


def _serve(args: argparse.Namespace) -> None:
    try:
        from prm.inference.serving import Limits, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise InputError(f"prm serve needs {error.name}: pip install 'nl2sql-prm[serve]'") from None

    serve(
        args.model,
        host=args.host,
        port=args.port,
        databases=args.databases,
        aggregate=args.aggregate,
        api_key_file=args.api_key_file,
        cache_bytes=args.cache_mib << 20,
        limits=Limits(args.max_wait, args.request_timeout, args.max_body_kib << 10),
        **_loading(args),
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
        labels=args.labels,
        on_bad_rows=args.on_bad_rows,
        **_loading(args),
    )


def _export(args: argparse.Namespace) -> None:
    from prm.modeling.foreign import export_vllm

    export_vllm(
        args.model,
        args.output,
        dtype=args.dtype,
        revision=args.revision,
        base_model=args.base_model,
        trust_remote_code=args.trust_remote_code,
    )


def _push(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.data is None):
        raise InputError("prm push wants --model FOLDER or --data FILE")
    common = {"private": args.private, "revision": args.revision, "commit_message": args.message}
    if args.data is not None:
        for option in ("merge", "base_model", "base_revision", "metrics", "trust_remote_code"):
            if getattr(args, option):
                raise InputError(f"--{option.replace('_', '-')} goes with --model")
        from prm.modeling.hub import push_data

        print(f"pushed to    {push_data(Path(args.data), args.repo, **common)}")
        return
    from prm.modeling.hub import push_model

    address = push_model(
        Path(args.model),
        args.repo,
        merged=args.merge,
        base_model=args.base_model,
        base_revision=args.base_revision,
        metrics=args.metrics,
        trust_remote_code=args.trust_remote_code,
        **common,
    )
    print(f"pushed to    {address}")


def _threshold(value: str) -> float | str:
    """`--threshold`: a number in [0, 1], or `oracle`: chosen on the evaluated data itself (and said so)."""
    if value == "oracle":
        return value
    with suppress(ValueError):
        if 0 <= float(value) <= 1:
            return float(value)
    raise argparse.ArgumentTypeError(f"must be a number in [0, 1] or 'oracle', not {value!r}")


def _not_negative(value: str) -> float:
    with suppress(ValueError):
        if 0 <= float(value) < float("inf"):
            return float(value)
    raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {value!r}")


def _positive(value: str) -> int:
    with suppress(ValueError):
        if int(value) >= 1:
            return int(value)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {value!r}")


def _seconds(value: str) -> float:
    with suppress(ValueError):
        if 0 < float(value) < float("inf"):
            return float(value)
    raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {value!r}")


def _port(value: str) -> int:
    with suppress(ValueError):
        if 0 <= int(value) <= 65535:
            return int(value)
    raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {value!r}")


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

    def bad_rows(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--on-bad-rows", choices=["stop", "skip"], default="stop", help=BAD_ROWS_HELP)

    def rows(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--labels", choices=["strict", "prefix"], default="strict", help=LABELS_HELP)
        bad_rows(sub)

    def model(sub: argparse.ArgumentParser, words: str, *, required: bool = False) -> None:
        sub.add_argument("--model", nargs="+", action="extend", required=required, help=words)

    def forward(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--max-tokens-per-batch",
            type=_positive,
            help="tokens in one forward (default: 2048 on a CPU, else 16384)",
        )
        model_options(sub, several=True)
        sub.add_argument(
            "--foreign",
            action="append",
            choices=["qwen2.5-math", "skywork", "trl", "math-shepherd", "rlhflow", "auto"],
            help="whose process reward model it is, where its files do not tell: math-shepherd, rlhflow",
        )
        sub.add_argument(
            "--step-separator",
            action="append",
            metavar="TEXT",
            help="of a trl model: what it was trained with (a newline)",
        )
        sub.add_argument(
            "--combine",
            choices=["mean", "min", "median", "lcb", "odds"],
            default="mean",
            help="how the scores of several models become one; lcb: mean minus k standard deviations. "
            "Options of the models are then given once for each, empty (--foreign auto) where one needs none",
        )
        sub.add_argument("--k", type=_not_negative, default=1.0, help="of --combine lcb (1)")

    def model_options(sub: argparse.ArgumentParser, *, several: bool = False) -> None:
        action = "append" if several else "store"
        sub.add_argument(
            "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of the backbone"
        )
        sub.add_argument("--revision", action=action, help="of the model on the Hub")
        sub.add_argument(
            "--base-model",
            action=action,
            metavar="MODEL",
            help="folder or Hub id of the base model, if it has moved",
        )
        sub.add_argument(
            "--trust-remote-code", action="store_true", help="run code that the base model brings"
        )

    sub = verb("train", _train, "train, evaluate and save a PRM from a recipe (one process)")
    sub.add_argument("recipe", help="YAML file; accelerate launch prm/train.py takes the same arguments")
    sub.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--key value", help="override keys of the recipe"
    )

    sub = verb("plan", _plan, "will it fit: the memory of a recipe's training, without loading weights")
    _plan_options(sub)
    sub.add_argument("recipe", help="YAML file")
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
        "--right-per-question",
        type=_positive,
        default=2,
        help="right traces at most for each question: gold's steps, and equal ones written otherwise",
    )
    sub.add_argument(
        "--wrong-per-question", type=_positive, default=4, help="wrong traces at most for each question"
    )
    sub.add_argument(
        "--errors",
        choices=["natural", "uniform"],
        default="natural",
        help="kinds of errors as often as in real wrong answers (default), or all alike",
    )
    sub.add_argument("--max-errors", type=_positive, default=2, help="errors at most in one wrong trace")
    sub.add_argument(
        "--hard-negatives", action="store_true", help="prefer wrong traces whose result is close to gold's"
    )
    sub.add_argument(
        "--styles",
        nargs="+",
        choices=["both", "sql", "english"],
        default=["both", "sql", "english"],
        help="texts of steps: a sentence with its SQL, only one of the two; drawn for each question",
    )
    sub.add_argument("--limit", type=_positive, help="only the first questions")
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")

    sub = verb("label", _label, "step labels for real answers, from gold SQL by execution")
    sub.add_argument("--data", required=True, help="JSONL: a question with candidates, or an answer, a line")
    sub.add_argument("--databases", required=True, help="the data set's folder")
    sub.add_argument("--output", required=True, help="JSONL file to write")
    sub.add_argument("--workers", type=_positive, default=1, help="processes")
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")
    sub.add_argument("--on-bad-rows", choices=["stop", "skip"], default="stop", help=BAD_ROWS_HELP)

    sub = verb("convert", _convert, "other people's step formats into traces")
    sub.add_argument(
        "--from",
        dest="format",
        required=True,
        help="auto (by the columns), native, trl, math-shepherd, openrlhf, prm800k, processbench, verdict, "
        "cocte, candidates",
    )
    sub.add_argument("--input", required=True, help="file, folder or Hub id")
    sub.add_argument("--split", help="of a Hub data set or a folder")
    sub.add_argument("--output", required=True, help="JSONL or Parquet file to write")
    rows(sub)

    def policy(
        sub: argparse.ArgumentParser, temperature: float, tokens: int, *, beside_a_prm: bool = False
    ) -> None:
        name, of = ("--policy", "policy-") if beside_a_prm else ("--model", "")
        sub.add_argument(name, required=True, help="folder or Hub id; with --base-url the server's name")
        sub.add_argument(
            "--base-url", metavar="URL", help="OpenAI-compatible server: http://localhost:8000/v1"
        )
        sub.add_argument(
            "--api",
            choices=["chat", "chat-ask", "completions"],
            help="how the server goes on with an answer: an open assistant message (default), asked for in "
            "words, or plain text",
        )
        sub.add_argument("--api-key-env", metavar="NAME", help="variable that holds the key (OPENAI_API_KEY)")
        sub.add_argument("--concurrency", type=_positive, help="requests under way at a time (8)")
        sub.add_argument("--request-timeout", type=float, metavar="SECONDS", help="for one answer (300)")
        sub.add_argument("--batch-size", type=_positive, help="samples in one batch of a local model (16)")
        sub.add_argument(f"--{of}dtype", choices=["auto", "float32", "bfloat16"], help="of a local model")
        sub.add_argument(f"--{of}revision", help="of a model on the Hub")
        if not beside_a_prm:
            sub.add_argument(
                "--trust-remote-code", action="store_true", help="run code that the model brings"
            )
        sub.add_argument("--temperature", type=float, default=temperature, help="default: %(default)s")
        sub.add_argument("--top-p", type=float, default=1.0, help="default: %(default)s")
        sub.add_argument("--max-new-tokens", type=_positive, default=tokens, help="default: %(default)s")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument(
            "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="of a million tokens, for the cost"
        )

    sub = verb("rollout", _rollout, "step labels by Monte-Carlo: how often a policy reaches gold's result")
    sub.add_argument("--data", nargs="+", metavar="FILE", help="answers: traces or candidates with gold_sql")
    sub.add_argument("--databases", metavar="DIR", help="for --data: the data set's folder")
    sub.add_argument(
        "--layout", choices=["spider", "bird", "table"], help="questions the policy shall answer"
    )
    sub.add_argument("--root", help="as of prm build")
    sub.add_argument("--split", help="as of prm build")
    sub.add_argument("--limit", type=_positive, help="only the first questions")
    sub.add_argument("--samples", type=_positive, help="answers that the policy writes to a question (4)")
    sub.add_argument(
        "--form", choices=["sentences", "cte"], help="of its steps: sentence and SQL (default), or CTEs alone"
    )
    sub.add_argument(
        "--output", required=True, help="JSONL or Parquet file; <output>.journal is kept beside it"
    )
    sub.add_argument("--rollouts", type=_positive, default=8, metavar="K", help="for each prefix (8)")
    sub.add_argument(
        "--labels", choices=["hard", "soft"], default="hard", help="1 if any rollout is right, or their share"
    )
    sub.add_argument(
        "--search",
        choices=["steps", "binary"],
        default="steps",
        help="try every prefix, or halve towards the first error",
    )
    sub.add_argument("--max-rollouts", type=_positive, metavar="N", help="for one question, at most")
    sub.add_argument(
        "--samples-per-request", type=_positive, default=1, metavar="N", help="where a server's n is cheaper"
    )
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")
    policy(sub, temperature=0.8, tokens=512)
    bad_rows(sub)

    sub = verb("decode", _decode, "answer questions with a policy that a PRM guides")
    model(sub, "the PRM: checkpoint folder or Hub id; several make an ensemble", required=True)
    sub.add_argument(
        "--data", nargs="+", metavar="FILE", help="questions, one a line; candidates or traces have them, too"
    )
    sub.add_argument("--databases", metavar="DIR", help="for --data: what is written is run on these")
    sub.add_argument("--layout", choices=["spider", "bird", "table"], help="instead of --data: a data set")
    sub.add_argument("--root", help="as of prm build")
    sub.add_argument("--split", help="as of prm build")
    sub.add_argument("--limit", type=_positive, help="only the first questions")
    sub.add_argument(
        "--output", required=True, help="JSONL file of candidates; <output>.journal is kept beside it"
    )
    sub.add_argument("--trees", metavar="FILE", help="JSONL file for the search trees")
    sub.add_argument("--report", metavar="FILE", help="HTML file with the figures and the trees drawn")
    sub.add_argument(
        "--push-to-hub", metavar="REPO", help="put what was written into this data set on the Hub, too"
    )
    sub.add_argument("--private", action="store_true", help="of a data set that is new on the Hub")
    sub.add_argument(
        "--method",
        choices=["greedy", "best-of-n", "beam", "dvts", "particles"],
        default="best-of-n",
        help="default: %(default)s",
    )
    sub.add_argument("--n", type=_positive, default=8, help="answers, beams or particles (8)")
    sub.add_argument("--beam-width", type=_positive, default=4, help="tries of each prefix that goes on (4)")
    sub.add_argument(
        "--lookahead",
        type=int,
        default=0,
        metavar="STEPS",
        help="written ahead before a prefix is judged (0)",
    )
    sub.add_argument(
        "--aggregate",
        choices=["last", "min", "mean", "product", "length-normalised-product", "no-error"],
        default="last",
        help="how the scores of an answer's steps become one (default: last)",
    )
    sub.add_argument(
        "--particle-temperature", type=float, default=1.0, help="of the particles' weights (default: 1)"
    )
    sub.add_argument("--max-steps", type=_positive, default=16, help="of one answer (16)")
    sub.add_argument("--max-tokens", type=_positive, help="new tokens that one question may cost")
    sub.add_argument("--max-prm-calls", type=_positive, help="steps that the PRM may read for one question")
    sub.add_argument(
        "--on-error",
        choices=["drop", "retry"],
        default="drop",
        help="what becomes of a prefix that does not run: dropped, or sent back once with its error",
    )
    sub.add_argument(
        "--delimiter", default="\\n\\n", help="behind each step; \\n for a line break (default: a blank line)"
    )
    sub.add_argument(
        "--form", choices=["sentences", "cte"], default="sentences", help="of the steps asked for"
    )
    sub.add_argument("--keep-duplicates", action="store_true", help="of beams; by default equal ones are one")
    sub.add_argument(
        "--keep-order", action="store_true", help="of finished beams; by default the best is first"
    )
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")
    policy(sub, temperature=0.8, tokens=512, beside_a_prm=True)
    forward(sub)
    bad_rows(sub)

    sub = verb("judge", _judge, "step labels by a model that reads the steps")
    sub.add_argument("--data", required=True, nargs="+", metavar="FILE", help="traces")
    sub.add_argument(
        "--output", required=True, help="JSONL or Parquet file; <output>.journal is kept beside it"
    )
    sub.add_argument("--databases", metavar="DIR", help="for traces without a schema: the data set's folder")
    sub.add_argument("--tries", type=_positive, default=3, help="for answers that cannot be read (3)")
    policy(sub, temperature=0.3, tokens=1024)
    rows(sub)

    sub = verb("consensus", _consensus, "keep what two labelled files agree on")
    sub.add_argument("first", metavar="FIRST", help="the file whose labels are kept, as of prm rollout")
    sub.add_argument("second", metavar="SECOND", help="the file that must agree, as of prm judge")
    sub.add_argument("--output", required=True, help="JSONL or Parquet file to write")
    sub.add_argument(
        "--keep",
        choices=["traces", "steps"],
        default="traces",
        help="traces with one first error in both, or every step label that both give",
    )
    rows(sub)

    sub = verb("inspect", _inspect, "check trace files and show their statistics")
    sub.add_argument("files", nargs="+", metavar="FILE", help="file, folder or Hub id")
    sub.add_argument("--split", help="of a Hub data set or a folder")
    sub.add_argument("--json", metavar="FILE", help="write the statistics for programs, too")
    where = sub.add_mutually_exclusive_group()
    where.add_argument(
        "--databases",
        metavar="DIR",
        help="run every answer and its gold again, and check that the labels hold",
    )
    where.add_argument(
        "--database-url", metavar="URL", help="the same for other databases than SQLite, as in prm build"
    )
    sub.add_argument("--workers", type=_positive, default=1, help="processes that run them")
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds that one statement may run")
    rows(sub)

    sub = verb("score", _score, "score every step of the traces in a file")
    model(sub, "checkpoint folder or Hub id; several make an ensemble", required=True)
    sub.add_argument("--data", required=True, nargs="+", metavar="FILE")
    sub.add_argument("--output", required=True, help="JSONL file with a 'scores' list in every trace")
    sub.add_argument(
        "--disagreement",
        type=_positive,
        nargs="?",
        const=20,
        metavar="N",
        help="of several models: list the N traces most worth labelling next (20)",
    )
    forward(sub)
    rows(sub)

    sub = verb("rerank", _rerank, "choose the best of several answers to each question")
    model(sub, "checkpoint folder or Hub id; without it the scores in --data are used")
    sub.add_argument("--data", required=True, metavar="FILE", help="candidates, a question a line")
    sub.add_argument(
        "--output", required=True, help="JSONL file; with gold, .metrics.json and .html beside it"
    )
    sub.add_argument(
        "--databases", metavar="DIR", help="run the candidates; holds <db_id>/<db_id>.sqlite, or Spider's or "
        "BIRD's folders"
    )  # fmt: skip
    sub.add_argument(
        "--choose",
        choices=["best", "vote", "weighted-vote"],
        default="best",
        help="the best score (default), the result with most votes, or with the largest votes times score",
    )
    sub.add_argument(
        "--aggregate",
        choices=AGGREGATES,
        default="last",
        help="how the scores of an answer's steps become one (default: last)",
    )
    sub.add_argument("--drop-failing", action="store_true", help="pass over candidates that do not run")
    sub.add_argument("--drop-empty", action="store_true", help="pass over candidates that give no rows")
    sub.add_argument("--workers", type=_positive, default=1, help="processes that run and cut SQL")
    sub.add_argument("--timeout", type=float, default=5.0, help="seconds one statement may run")
    sub.add_argument("--seed", type=int, default=0, help="of the intervals and curves")
    forward(sub)
    bad_rows(sub)

    sub = verb("serve", _serve, "scores over HTTP")
    model(sub, "checkpoint folder or Hub id; several make an ensemble", required=True)
    sub.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)"
    )
    sub.add_argument("--port", type=_port, default=8080, help="%(default)s; 0: any that is free")
    sub.add_argument(
        "--databases", metavar="DIR", help="data set's folder: schemas and votes by the db_id of a request"
    )
    sub.add_argument(
        "--api-key-file", metavar="FILE", help="holds the key that requests must bring (or PRM_API_KEY)"
    )
    sub.add_argument(
        "--aggregate",
        choices=AGGREGATES,
        default="last",
        help="how the scores of steps become one reward in /get_reward (%(default)s)",
    )
    sub.add_argument(
        "--cache-mib", type=_positive, default=1024, help="memory for what requests share (%(default)s)"
    )
    sub.add_argument(
        "--max-wait",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="a longer queue answers 429 (%(default)g)",
    )
    sub.add_argument(
        "--request-timeout", type=_seconds, default=120.0, metavar="S", help="for one request (%(default)g)"
    )
    sub.add_argument(
        "--max-body-kib", type=_positive, default=4096, help="a larger request answers 413 (%(default)s)"
    )
    forward(sub)

    sub = verb("evaluate", _evaluate, "measure a model, all checkpoints of a run, or a scored file")
    model(sub, "checkpoint folder, run folder or Hub id; several make an ensemble")
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

    sub = verb("export", _export, "a checkpoint in the layout of another program")
    sub.add_argument("--model", required=True, help="checkpoint folder or Hub id")
    sub.add_argument("--format", required=True, choices=["vllm"], help="Qwen2ForProcessRewardModel of vLLM")
    sub.add_argument("--output", required=True, metavar="DIR", help="new folder to write")
    model_options(sub)

    sub = verb("push", _push, "a checkpoint, or a file of traces, to the Hugging Face Hub")
    sub.add_argument("--model", metavar="FOLDER", help="checkpoint folder")
    sub.add_argument("--data", metavar="FILE", help="or traces with the data card that prm build wrote")
    sub.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made where it does not exist")
    sub.add_argument("--merge", action="store_true", help="the whole model, an adapter merged into it")
    sub.add_argument(
        "--base-model",
        metavar="MODEL",
        help="Hub id of the base model, where the checkpoint names a folder; its present commit is pinned",
    )
    sub.add_argument("--base-revision", metavar="REVISION", help="pin this one instead")
    sub.add_argument(
        "--metrics",
        nargs="+",
        metavar="FILE",
        help="metrics.json files of prm evaluate, for a new card (default: those of the training)",
    )
    sub.add_argument(
        "--private", action="store_true", default=None, help="make the repository private, if it is new"
    )
    sub.add_argument("--revision", metavar="BRANCH", help="branch to push to, made where it does not exist")
    sub.add_argument("--message", help="of the commit")
    sub.add_argument(
        "--trust-remote-code", action="store_true", help="with --merge: run code that the base model brings"
    )
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = error.filename or "the output"
        print(
            f"prm: {what} cannot be written ({error.strerror}); make room and run the same command again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("prm: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
