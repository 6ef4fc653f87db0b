"""The command `smsgw`. Errors of settings are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError, GatewayError
from sms.model import MessageClass

_DESCRIPTION = """\
An SMS gateway: HTTPS JSON in, the carriers' protocols out, nothing lost.

First steps:
  smsgw up --sandbox                      the whole gateway with simulated carriers, here and now
  smsgw send +8613800138000 "Hello"       in a second terminal: send a text
  smsgw status ID --timeline              and see what became of it
"""
_EPILOG = """\
Settings are environment variables; the main ones:
  SMSGW_DATA_DIR      everything this node keeps (default ./.smsgw)
  SMSGW_PORT          the public door (default 8080); SMSGW_ADMIN_PORT health and metrics (8081)
  SMSGW_HOST          address to listen on (default 127.0.0.1)
  SMSGW_DATABASE_URL  PostgreSQL (default: an embedded one); SMSGW_REDIS_URL likewise for Valkey
  SMSGW_URL, SMSGW_API_KEY_FILE           for send and status (default: the sandbox's)
`smsgw check` looks whether all of them are right. Exit codes: 0 done, 1 refused or wrong,
2 a setting or argument is wrong.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    if command in (_up, _worker, _apply, _migrate, _upkeep, _export, _restored):
        os.umask(0o077)  # what they leave on disk is nobody else's to read
    try:
        return command(arguments)
    except (ConfigError, GatewayError) as error:
        sys.stderr.write(f"smsgw: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _up(arguments: argparse.Namespace) -> int:
    gc.disable()  # nothing that is imported is garbage
    from gateway.up import up  # here, not above: a client command starts twice as fast

    gc.enable()

    given = {"workers": arguments.workers, "role": arguments.role}
    named = {name: value for name, value in given.items() if value is not None}
    settings = Settings.load(is_sandbox=arguments.sandbox, **named)
    terminal = _terminal(arguments)
    try:
        return up(settings, terminal)
    finally:
        terminal.close()


def _worker(_: argparse.Namespace) -> int:
    gc.disable()  # nothing that is imported is garbage: a sixth of a worker's start
    from gateway.worker import run

    gc.enable()

    return run(Settings.load())


def _restart(arguments: argparse.Namespace) -> int:
    from gateway.restart import restart

    return restart(Settings.load(), _terminal(arguments))


def _send(arguments: argparse.Namespace) -> int:
    from gateway.client import send

    body = {"to": arguments.to, "text": arguments.text}
    if arguments.message_class is not None:
        body["class"] = arguments.message_class
    if arguments.signature is not None:
        body["signature"] = arguments.signature
    return send(Settings.load(), body, _terminal(arguments))


def _status(arguments: argparse.Namespace) -> int:
    from gateway.client import status

    return status(
        Settings.load(), arguments.id, _terminal(arguments), with_timeline=arguments.timeline
    )


def _check(arguments: argparse.Namespace) -> int:
    from gateway.check import run

    return run(Settings.load(), _terminal(arguments))


def _doctor(arguments: argparse.Namespace) -> int:
    from gateway.doctor import run

    return run(Settings.load(), _terminal(arguments))


def _export(arguments: argparse.Namespace) -> int:
    from gateway.export import Order, run
    from gateway.servers import describe_place, reachable

    words = {name: getattr(arguments, name) for name in Order.__slots__ if name != "is_json"}
    order = Order(is_json=arguments.json, **words)
    given = Settings.load()
    terminal = Terminal(is_json=arguments.json, stream=sys.stderr)  # stdout is for the rows
    terminal.step(describe_place(given))
    try:
        with reachable(given, terminal.step) as settings:
            return run(settings, order, terminal)
    finally:
        terminal.close()


def _top(arguments: argparse.Namespace) -> int:
    from gateway.topview import run

    return run(
        Settings.load(),
        arguments.url,
        arguments.interval,
        once=arguments.once,
        is_json=arguments.json,
    )


def _migrate(arguments: argparse.Namespace) -> int:
    from gateway.ownership import owner_url, prepare
    from gateway.servers import describe_place, reachable
    from store import probe
    from store.schema import contract, migrate

    terminal = _terminal(arguments)
    given = Settings.load()
    terminal.step(describe_place(given))
    run = contract if arguments.contract else migrate
    with reachable(given, terminal.step) as settings:
        applied = prepare(settings, terminal.step, run)
        waiting = asyncio.run(probe.contracting_migrations(owner_url(settings)))
    done = f"{len(applied)} migrations run" if applied else "nothing to do"
    if waiting:
        done += f"; {len(waiting)} take something away and wait for `smsgw migrate --contract`"
    terminal.say(done, "migrated", applied=applied, waiting=waiting)
    return 0


def _upkeep(arguments: argparse.Namespace) -> int:
    from gateway import upkeep
    from gateway.servers import describe_place, reachable

    terminal = _terminal(arguments)
    given = Settings.load()
    terminal.step(describe_place(given))
    if given.database_url is not None:
        return upkeep.run(given, terminal)  # it needs no Valkey
    with reachable(given, terminal.step) as settings:
        return upkeep.run(settings, terminal)


def _restored(arguments: argparse.Namespace) -> int:
    from gateway.restored import run
    from gateway.servers import describe_place, reachable

    terminal = _terminal(arguments)
    given = Settings.load()
    terminal.step(describe_place(given))
    with reachable(given, terminal.step) as settings:
        return run(settings, terminal, is_dry=arguments.dry_run)


def _apply(arguments: argparse.Namespace) -> int:
    from gateway import apply
    from gateway.ownership import prepare
    from gateway.servers import describe_place, reachable
    from store.probe import pending_migrations

    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    is_dry: bool = arguments.dry_run
    given = Settings.load()
    tell(describe_place(given))
    with reachable(given, tell) as settings:
        dsn = settings.database_url or ""
        if not is_dry:
            prepare(settings, tell)
        elif asyncio.run(pending_migrations(dsn)):
            raise ConfigError("the database waits for migrations: run `smsgw migrate` first")
        return apply.run(settings, arguments.file, _terminal(arguments), is_dry=is_dry)


def _load_ported(arguments: argparse.Namespace) -> int:
    from gateway import portability
    from gateway.ownership import prepare
    from gateway.servers import describe_place, reachable

    terminal = _terminal(arguments)
    given = Settings.load()
    terminal.step(describe_place(given))
    try:
        with reachable(given, terminal.step) as settings:
            prepare(settings, terminal.step)
            return portability.load(settings, arguments.file, terminal, skip_bad=arguments.skip_bad)
    finally:
        terminal.close()


def _terminal(arguments: argparse.Namespace) -> Terminal:
    return Terminal(is_json=arguments.json)


def _version() -> str:
    try:
        return metadata.version("smsgw")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smsgw",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"smsgw {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    up = _add(commands, "up", _up, "start the whole gateway on this machine and stay")
    up.add_argument(
        "--sandbox", action="store_true", help="with four simulated carriers, a tenant and its key"
    )
    up.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="worker processes (default SMSGW_WORKERS, else three quarters of the cores)",
    )
    up.add_argument(
        "--role",
        choices=("all", "api", "carrier"),
        help="what the workers do: only answer tenants, only talk to carriers, or both "
        "(default SMSGW_ROLE, else all)",
    )

    _add(
        commands, "restart", _restart, "restart the workers one after another; clients see nothing"
    )
    _add(commands, "worker", _worker, "one worker process (what `up` starts)", has_json=False)

    send = _add(commands, "send", _send, "send one text")
    send.add_argument("to", metavar="TO", help="the number, as +8613800138000")
    send.add_argument("text", metavar="TEXT", help="the text, without signature")
    send.add_argument(
        "--class",
        dest="message_class",
        choices=[str(kind) for kind in MessageClass],
        help="what kind of text it is (default transactional)",
    )
    send.add_argument("--signature", help="the brand in front (default: the tenant's first)")

    status = _add(commands, "status", _status, "show where a message stands")
    status.add_argument("id", metavar="ID", help="the id that sending answered, as msg_…")
    status.add_argument("--timeline", action="store_true", help="with everything that happened")

    _add(commands, "check", _check, "look whether settings and connections are right")
    _add(commands, "doctor", _doctor, "check, and look at clock, disk, servers, certificates too")
    _add_export(commands)
    top = _add(
        commands, "top", _top, "watch channels, lanes, tenants and webhooks live", has_json=False
    )
    top.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help="a node's admin port, as http://10.0.0.5:8081; several are added up "
        "(default: this machine's, SMSGW_ADMIN_PORT)",
    )
    top.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="S",
        help="seconds from look to look, which the rates are measured over (default 2)",
    )
    top.add_argument("--once", action="store_true", help="one picture, also without a terminal")
    top.add_argument("--json", action="store_true", help="one picture as one JSON document")

    _add(commands, "upkeep", _upkeep, "end what was kept long enough (`up` does it each hour)")

    migrate = _add(commands, "migrate", _migrate, "bring the database's schema up to date")
    migrate.add_argument(
        "--contract",
        action="store_true",
        help="take away what no version needs any more; refused while one runs that does",
    )

    restored = _add(
        commands,
        "restored",
        _restored,
        "once after the database was put back to an earlier moment: send nothing twice",
    )
    restored.add_argument("--dry-run", action="store_true", help="count, and change nothing")

    apply = _add(commands, "apply", _apply, "apply a configuration file (YAML)")
    apply.add_argument("file", metavar="FILE", type=Path, help="tenants, keys, channels, routes …")
    apply.add_argument(
        "--dry-run", action="store_true", help="show what it would change, and change nothing"
    )

    portability = commands.add_parser(
        "portability", help="numbers that left the carrier of their prefix"
    )
    steps = portability.add_subparsers(title="commands", metavar="COMMAND", required=True)
    load = _add(steps, "load", _load_ported, "load numbers and their carriers from a file (CSV)")
    load.add_argument(
        "file", metavar="FILE", type=Path, help="rows of number,carrier; no carrier: its prefix's"
    )
    load.add_argument(
        "--skip-bad", action="store_true", help="load the rows that are right, leave the others"
    )
    return parser


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = _add(commands, "export", _export, "write a tenant's send log as CSV")
    export.add_argument("tenant", metavar="TENANT", help="its name or id (ten_…)")
    export.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="into this file, once complete (stdout)"
    )
    export.add_argument(
        "--since", metavar="DAY", help="the first day (of UTC+8), or a time with its zone"
    )
    export.add_argument(
        "--until", metavar="DAY", help="the last day, or the time where it ends (default now)"
    )
    export.add_argument(
        "--days", type=_days, default=90, metavar="N", help="without --since: so many (default 90)"
    )
    export.add_argument(
        "--unmask", metavar="REASON", help="with whole numbers; the audit log keeps the reason"
    )
    export.add_argument(
        "--rate",
        type=_rate,
        default=5000,
        metavar="N",
        help="messages a second at most (default 5000; 0: as fast as it goes)",
    )


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    has_json: bool = True,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
    command.set_defaults(command=run)
    if has_json:
        command.add_argument("--json", action="store_true", help="answer in JSON lines")
    return command


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("a number from 1 to 64")
    return int(text)


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 400:
        raise argparse.ArgumentTypeError("a number from 1 to 400")
    return int(text)


def _rate(text: str) -> int:
    if not text.isdecimal() or int(text) > 1_000_000:
        raise argparse.ArgumentTypeError("a number from 0 to 1000000")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0.1 <= value <= 3600:
            return value
    raise argparse.ArgumentTypeError("seconds, from 0.1 to 3600")


if __name__ == "__main__":
    sys.exit(main())
