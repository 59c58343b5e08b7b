"""The command line: serve, validate, schema, doctor, keys, bake, calibrate, verifier, tune, check, cache, import."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from gateway.config import Config, ConfigFault, Role, build, load
from gateway.errors import GatewayError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    options.given = given
    try:
        return int(options.run(options))
    except (ConfigFault, GatewayError) as fault:  # a policy book's faults are of the second kind
        print(fault, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semantic-gateway", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", type=Path, help="gateway.yaml")
    serve.add_argument(
        "--backend", action="append", metavar="URL", help="without a file: an engine's base URL"
    )
    serve.add_argument("--host", help="listen here instead of what the file says")
    serve.add_argument("--port", type=int, help="likewise")
    serve.add_argument("--admin-port", type=int, help="likewise, for the admin port")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes on that one port")
    serve.add_argument("--worker-socket", type=int, help=argparse.SUPPRESS)  # of a worker: what to listen on
    serve.add_argument("--worker-admin", type=Path, help=argparse.SUPPRESS)
    serve.add_argument("--worker-parent", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    validate = commands.add_parser(
        "validate", help="check configuration and policies; exit 1 with every fault"
    )
    validate.add_argument("--config", type=Path, help="gateway.yaml")
    validate.add_argument("--policies", type=Path, help="a policy folder on its own")
    validate.set_defaults(run=_validate)

    schema = commands.add_parser(
        "schema", help="print the JSON schema of gateway.yaml, of the policies or of cases"
    )
    schema.add_argument("what", nargs="?", choices=("config", "policies", "cases"), default="config")
    schema.set_defaults(run=_schema)

    doctor = commands.add_parser("doctor", help="try every part: backends, store, embedder, policies")
    doctor.add_argument("--config", type=Path)
    doctor.add_argument("--backend", action="append", metavar="URL")
    doctor.set_defaults(run=_doctor)

    keys = commands.add_parser("keys", help="API keys of tenants, tokens of operators")
    makings = keys.add_subparsers(required=True, metavar="COMMAND")
    new = makings.add_parser("new", help="make one: the key for its holder, its hash for gateway.yaml")
    whose = new.add_mutually_exclusive_group(required=True)
    whose.add_argument("--tenant", help="whose API key")
    whose.add_argument("--role", choices=get_args(Role), help="an admin token with this role")
    new.add_argument("--label", default="", help="by which GET /tenants, or the audit log, knows it")
    new.add_argument("--expires", type=datetime.fromisoformat, help="a date, 2027-01-31, or a moment")
    new.set_defaults(run=_new_key)

    seal = makings.add_parser("seal", help="make one for store.encryption_keys, which seals what is stored")
    seal.set_defaults(run=_new_seal)

    bake = commands.add_parser(
        "bake", help="export the embedding model into a folder, as an image build does"
    )
    bake.add_argument("--cache", type=Path, required=True, help="what embedder.cache will say")
    bake.set_defaults(run=_bake)

    calibrate = commands.add_parser("calibrate", help="thresholds from labelled pairs, written as policies")
    calibrate.add_argument(
        "--pairs", type=Path, required=True, help="JSON lines: a, b, duplicate[, category]"
    )
    calibrate.add_argument(
        "--max-error", type=float, required=True, help="share of known non-duplicates that may hit"
    )
    calibrate.add_argument("--load-error", type=float, help="the same share at full load: an error budget")
    calibrate.add_argument("--out", type=Path, required=True, help="folder for the policies")
    calibrate.add_argument("--policies", type=Path, help="the book to start from (default: the shipped one)")
    calibrate.add_argument(
        "--verifier",
        type=Path,
        metavar="DIR",
        help="a trained one, used in categories where it proves better",
    )
    calibrate.set_defaults(run=_calibrate)

    verifier = commands.add_parser(
        "verifier", help="a second opinion on semantic hits, learned from labelled pairs"
    )
    lessons = verifier.add_subparsers(required=True, metavar="COMMAND")
    train = lessons.add_parser("train", help="train one")
    train.add_argument("--pairs", type=Path, required=True, help="JSON lines: a, b, duplicate")
    train.add_argument(
        "--out", type=Path, required=True, help="its folder, for `verifier.path` and calibrate"
    )
    train.add_argument(
        "--cross-encoder", action=argparse.BooleanOptionalAction, default=True,
        help="also a model that reads both texts at once: better, and minutes instead of seconds to train",
    )  # fmt: skip
    train.add_argument("--minutes", type=float, default=60.0, help="that its training may take (default: 60)")
    train.set_defaults(run=_train)

    tune = commands.add_parser("tune", help="what other thresholds would do: a chart, a table, a policy diff")
    evidence = tune.add_mutually_exclusive_group(required=True)
    evidence.add_argument("--pairs", type=Path, help="JSON lines: a, b, duplicate[, category]")
    evidence.add_argument("--log", type=Path, help="the gateway's own log, with its judged hits")
    tune.add_argument("--max-error", type=float, help="for all categories (default: each one's own, or 0.01)")
    tune.add_argument("--out", type=Path, required=True, help="folder for chart, table and diff")
    tune.add_argument("--policies", type=Path, help="the book in force (default: the shipped one)")
    tune.set_defaults(run=_tune)

    check = commands.add_parser("check", help="a team's expectations of its policies, for CI")
    check.add_argument("policies", type=Path, help="folder of the policies")
    check.add_argument("cases", type=Path, help="YAML: must_hit, must_miss and category cases")
    check.add_argument(
        "--config", type=Path, help="whose embedder and verifier decide (default: the defaults)"
    )
    check.add_argument("--json", type=Path, dest="report", metavar="FILE", help="every case, as JSON")
    check.add_argument("--junit", type=Path, metavar="FILE", help="the same as JUnit XML")
    check.set_defaults(run=_check)

    _cache_commands(commands)
    litellm = commands.add_parser("import", help="a configuration of another gateway's").add_subparsers(
        required=True, metavar="FROM"
    ).add_parser("litellm", help="LiteLLM's proxy configuration → gateway.yaml")  # fmt: skip
    litellm.add_argument("--config", type=Path, required=True, help="LiteLLM's YAML")
    litellm.add_argument("--out", type=Path, required=True, help="the gateway.yaml to write")
    litellm.set_defaults(run=_import_litellm)
    return parser


def _cache_commands(commands: Any) -> None:
    """`cache …`: on the gateway that runs, or on its store where none does."""
    cache = commands.add_parser("cache", help="export, import, pre-warm, count and purge what is cached")
    tools = cache.add_subparsers(required=True, metavar="COMMAND")

    def tool(name: str, run: Callable[[argparse.Namespace], Any], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = tools.add_parser(name, help=text)
        made.add_argument("--config", type=Path, help="gateway.yaml: where its admin port and its store are")
        made.add_argument("--admin", metavar="URL", help="the admin port of a gateway that runs")
        made.set_defaults(run=lambda options: asyncio.run(run(options)))
        return made

    export = tool("export", _export, "write entries, vectors and answers as JSON lines")
    export.add_argument("--out", type=Path, required=True, help="FILE.jsonl or FILE.jsonl.gz")
    export.add_argument(
        "--with-secret", action="store_true",
        help="with what open-mode tenants are named by, for an empty store elsewhere",
    )  # fmt: skip
    _criteria(export, "tenant", "category", "model")
    restore = tool("import", _restore, "store what was exported; nothing is doubled")
    restore.add_argument("file", type=Path, help="an export; - for standard input")
    warm = tool("warm", _warm, "store questions with answers, or logged requests with responses")
    warm.add_argument("file", type=Path, help="JSON lines; - for standard input")
    warm.add_argument("--model", help="where a line names none")
    warm.add_argument("--tenant", help="whose they are, where a line does not say it")
    warm.add_argument(
        "--key-env", metavar="NAME", help="or: the environment variable with an API key of theirs"
    )
    warm.add_argument("--category", help="a hint, as x-gateway-category")
    warm.add_argument(
        "--fields", type=_object, metavar="JSON", help="of each question's request: what clients send"
    )
    warm.add_argument("--replace", action="store_true", help="answers that are stored already")
    stats = tool("stats", _stats, "what is held, category by category")
    stats.add_argument("--json", action="store_true", dest="as_json", help="everything, as JSON")
    purge = tool("purge", _purge, "remove what matches all criteria")
    _criteria(purge, "tenant", "user", "category", "model", "tag", "entry", "request_id")
    purge.add_argument("--all", action="store_true", help="everything")
    purge.add_argument("--dry-run", action="store_true", help="only count")

    erase = tool("erase", _erase, "forget every text of a tenant or an end user, wherever it is kept")
    _criteria(erase, "tenant", "user")


def _object(text: str) -> dict[str, Any]:
    given = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError("no JSON object")
    return given


def _criteria(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"only of this {name.replace('_', ' ')}")


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name in names if (value := getattr(options, name)) not in (None, False)}


def _place(options: argparse.Namespace) -> Any:
    from gateway.cache_tools import Place

    config = None if options.config is None else load(options.config)
    admin = options.admin or os.environ.get("GATEWAY_ADMIN_URL")
    if config is None and admin is None:
        raise ConfigFault("command line", [("--config", "give --config FILE or --admin URL")])
    return Place(admin, config, os.environ.get("GATEWAY_ADMIN_TOKEN", ""))


async def _export(options: argparse.Namespace) -> int:
    from gateway.cache_tools import export

    wanted = _given(options, "tenant", "category", "model")
    return await export(_place(options), options.out, wanted, with_secret=options.with_secret)


async def _restore(options: argparse.Namespace) -> int:
    from gateway.cache_tools import restore

    return await restore(_place(options), options.file)


async def _warm(options: argparse.Namespace) -> int:
    from gateway.cache_tools import warm

    terms = _given(options, "model", "tenant", "category", "fields", "replace")
    if options.key_env is not None:
        terms["key"] = os.environ.get(options.key_env, "")
    return await warm(_place(options), options.file, terms)


async def _stats(options: argparse.Namespace) -> int:
    from gateway.cache_tools import stats

    return await stats(_place(options), as_json=options.as_json)


async def _purge(options: argparse.Namespace) -> int:
    from gateway.cache_tools import purge

    criteria = ("tenant", "user", "category", "model", "tag", "entry", "request_id", "all", "dry_run")
    return await purge(_place(options), _given(options, *criteria))


async def _erase(options: argparse.Namespace) -> int:
    from gateway.cache_tools import erase

    return await erase(_place(options), _given(options, "tenant", "user"))


def _import_litellm(options: argparse.Namespace) -> int:
    from gateway.litellm import translate

    return translate(options.config, options.out)


def _config(options: argparse.Namespace) -> Config:
    """The file, or defaults in front of the given backends; flags and PORT win over the file."""
    if options.config is not None:
        config = load(options.config)
    else:
        backends = options.backend or (
            [os.environ["OPENAI_BASE_URL"]] if "OPENAI_BASE_URL" in os.environ else []
        )
        if not backends:
            raise ConfigFault("command line", [("--backend", "give --config FILE or --backend URL")])
        told = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
        config = build({"models": [{"name": "*", "backends": [{"url": url} for url in backends]}]}, told)
    return _with_flags(config, options)


def _with_flags(config: Config, options: argparse.Namespace) -> Config:
    port = getattr(options, "port", None)
    if port is None and os.environ.get("PORT", "").isdigit():
        port = int(os.environ["PORT"])
    listen = {"host": getattr(options, "host", None), "port": port}
    admin = {"port": getattr(options, "admin_port", None)}
    return config.model_copy(
        update={
            "listen": config.listen.model_copy(update={k: v for k, v in listen.items() if v is not None}),
            "admin": config.admin.model_copy(update={k: v for k, v in admin.items() if v is not None}),
        }
    )


def _serve(options: argparse.Namespace) -> int:
    from gateway.app import Ports, serve

    config = _config(options)
    if options.workers > 1 and options.worker_socket is None:
        from gateway import workers

        return _run(workers.serve(config, options.workers, options.given))
    ports = None
    if options.worker_socket is not None:
        ports = Ports(options.worker_socket, options.worker_admin, options.worker_parent)
    reread: Callable[[], Config] | None = (lambda: _config(options)) if options.config else None
    return _run(serve(config, reread=reread, ports=ports))


def _run(work: Any) -> int:
    """On uvloop where it is to be had: the same asyncio, with a faster loop."""
    try:
        import uvloop
    except ImportError:
        return int(asyncio.run(work))
    return int(uvloop.run(work))


def _validate(options: argparse.Namespace) -> int:
    from gateway.cache.guard import CHECKS
    from gateway.policy.faults import PolicyFaults
    from gateway.policy.folder import load_folder

    folder = options.policies
    if options.config is not None:
        config = load(options.config)
        folder = folder or config.policies
        print(f"{options.config}: ok")
    if folder is not None:
        try:
            book = load_folder(folder, frozenset(CHECKS))
        except PolicyFaults as faults:
            print(faults, file=sys.stderr)
            return 1
        print(f"{folder}: ok, {len(book.categories)} categories, version {book.version}")
    return 0


def _tune(options: argparse.Namespace) -> int:
    from gateway.thresholds import propose

    return propose(options.pairs, options.log, options.max_error, options.out, options.policies)


def _check(options: argparse.Namespace) -> int:
    from gateway.check import run

    try:
        return run(
            options.policies, options.cases, options.config, report=options.report, junit=options.junit
        )
    except (ConfigFault, GatewayError, OSError) as fault:  # 1 means that a case failed
        print(fault, file=sys.stderr)
        return 2


def _schema(options: argparse.Namespace) -> int:
    from gateway.check import Cases
    from gateway.policy.book import schema

    schemas = {"config": Config.model_json_schema, "policies": schema, "cases": Cases.model_json_schema}
    print(json.dumps(schemas[options.what](), indent=2))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from gateway.doctor import examine

    return asyncio.run(examine(_config(options)))


def _new_key(options: argparse.Namespace) -> int:
    from gateway import keys

    key = keys.generate()
    if options.role:
        row = {"name": options.label or options.role, "token": str(keys.hashed(key)), "role": options.role}
        place = "under admin.tokens"
    else:
        row = {"key": str(keys.hashed(key)), "label": options.label}
        place = f"under the keys of '{options.tenant}'"
    row |= {"expires": options.expires.isoformat() if options.expires else ""}
    print("For its holder, shown this once:", file=sys.stderr)
    print(key)
    print(f"\nFor gateway.yaml, {place}:", file=sys.stderr)
    print("- " + json.dumps({name: value for name, value in row.items() if value}))
    return 0


def _new_seal(options: argparse.Namespace) -> int:
    from gateway import keys

    print("For the environment; what it sealed is lost without it:", file=sys.stderr)
    print(keys.generate_sealing())
    return 0


def _bake(options: argparse.Namespace) -> int:
    from gateway.embedding.sentence import SentenceEmbedder

    print(SentenceEmbedder("auto", "onnx-int8", cache=options.cache).name)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from gateway.thresholds import write_policies

    return write_policies(
        options.pairs, options.max_error, options.load_error, options.out, options.policies, options.verifier
    )


def _train(options: argparse.Namespace) -> int:
    from gateway.lessons import train_verifier

    return train_verifier(options.pairs, options.out, options.cross_encoder, options.minutes)
