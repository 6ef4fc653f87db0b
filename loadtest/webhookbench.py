"""`make bench-webhooks`: what webhooks cost, how soon they arrive, and what a bad endpoint does.

    speed     100,000 finals a minute: to nobody, to one endpoint singly, to one in batches, to a
              thousand endpoints singly; by turns, so that noise hits all alike
    fairness  five rounds: all endpoints well ─▶ one hangs and one takes 10 s, the others judged

Milliseconds are from the commit of the event to the sink, which is a process of its own with a
port for each endpoint. A stock gateway in a fresh directory, plain http on loopback as the sandbox
allows it, or TLS (--tls). Exit 0 = nothing was lost, all arrived in time, and the p99 of the
others moved by less than max(20 %, 5 ms), the median of the rounds; 1 = not.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import ipaddress
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rich.console import Console

from loadtest import webhookreport
from loadtest.bench import machine
from loadtest.command import (
    Found,
    add_report_options,
    end_on_sigterm,
    measured,
    print_found,
    print_problems,
)
from loadtest.hookplace import Customer, HookPlace, Seen, commit_times, open_hooks
from loadtest.progress import Bar
from loadtest.stock_gateway import fresh_directory
from loadtest.webhookreport import Round, Turn, judge, speed_of, turn_of
from store.embedded import EmbeddedServers

RECORD: Final = Path(__file__).with_name("records") / "webhookbench.json"
GOOD: Final = 10  # endpoints that are well, in the fairness part
GOOD_SHARE: Final = 0.75  # of the messages; the rest goes to the others
SETTLE_S: Final = 3.0


class Bench:
    """The parts, on one gateway."""

    def __init__(self, place: HookPlace, bar: Bar, options: argparse.Namespace) -> None:
        self._place = place
        self._bar = bar
        self._options = options
        self._free = list(place.sink.ports)
        self.problems: list[str] = []

    def _customers(self, name: str, count: int, *, is_batched: bool = False) -> list[Customer]:
        return [
            self._place.customer(f"{name}-{number:04d}", self._free.pop(), is_batched=is_batched)
            for number in range(count)
        ]

    # -- speed -----------------------------------------------------------------------------

    async def speed(self) -> dict[str, Any]:
        """Every form in every round; the medians."""
        options, place = self._options, self._place
        forms = {
            "nobody": [place.customer("nobody", 0)],
            "one, singly": self._customers("one", 1),
            "one, batched": self._customers("batched", 1, is_batched=True),
            f"{options.many:,}, singly": self._customers("many", options.many),
        }
        await place.configure([one for some in forms.values() for one in some])
        await asyncio.sleep(SETTLE_S)
        seen: dict[str, list[Seen]] = {name: [] for name in forms}
        for number in range(options.speed_rounds + 1):
            for name, customers in forms.items():
                seconds = options.seconds if number else options.warm_up
                self._bar.step(f"{name}: {f'round {number}' if number else 'warm-up'}", seconds)
                found = await place.load(customers, options.rate, seconds)
                if number:
                    seen[name].append(found)
                    self._complete(name, found)
        told = {name: speed_of(runs, seen["nobody"]) for name, runs in seen.items()}
        for name, speed in told.items():
            self.problems += [f"{name}: {line}" for line in webhookreport.slow(speed, options.rate)]
        return {name: asdict(speed) for name, speed in told.items()}

    def _complete(self, name: str, seen: Seen) -> None:
        missing = sum(1 for one in seen.arrivals if one.arrived is None)
        if missing:
            self.problems.append(f"{name}: {missing:,} events were committed and never arrived")
        if seen.repeats:
            self.problems.append(f"{name}: {seen.repeats:,} events came again without a fault")

    # -- fairness --------------------------------------------------------------------------

    async def fairness(self) -> dict[str, Any]:
        """Rounds by turns; how far the p99 of the good ones moved."""
        options, place = self._options, self._place
        good = self._customers("good", GOOD)
        calm = self._customers("calm", 2 * options.each)
        bad = [self._customers(f"bad{n}", 2 * options.each) for n in range(options.rounds)]
        await place.configure([*good, *calm, *(one for some in bad for one in some)])
        await asyncio.sleep(SETTLE_S)
        await self._turn("warm-up", good, calm, options.warm_up)
        rounds = []
        for number, some in enumerate(bad, 1):
            # Who is first changes: what the machine does besides hits both alike.
            parts = [self._well(number, good, calm), self._ill(number, good, some)]
            if number % 2:
                well, ill = await parts[0], await parts[1]
            else:
                ill, well = await parts[1], await parts[0]
            rounds.append(Round(well, ill))
        verdict = judge(rounds)
        self.problems += verdict.problems
        return asdict(verdict)

    async def _well(self, number: int, good: Sequence[Customer], calm: Sequence[Customer]) -> Turn:
        return await self._turn(f"round {number}: all are well", good, calm, self._options.turn)

    async def _ill(self, number: int, good: Sequence[Customer], bad: Sequence[Customer]) -> Turn:
        place, each = self._place, self._options.each
        ports = [one.port for one in bad]
        await place.sink.behave(ports[:each], "hang")
        await place.sink.behave(ports[each:], "slow")
        name = f"round {number}: {each} hang, {each} take 10 s"
        turn = await self._turn(name, good, bad, self._options.turn)
        await place.silence(bad)  # their probes are not part of what follows
        await asyncio.sleep(SETTLE_S)
        return turn

    async def _turn(
        self, name: str, good: Sequence[Customer], others: Sequence[Customer], seconds: float
    ) -> Turn:
        self._bar.step(name, seconds)
        turns = mixed(good, others)
        seen = await self._place.load(turns, self._options.fair_rate, seconds, awaited=good)
        self._complete(name, seen)
        return turn_of(seen)


def mixed(good: Sequence[Customer], others: Sequence[Customer]) -> list[Customer]:
    """An order of tenants in which the good ones have their share, all evenly spread."""
    each = max(1, round(GOOD_SHARE / (1 - GOOD_SHARE) * len(others) / len(good)))
    places = [((turn + 0.5) / each, one) for turn in range(each) for one in good]
    repeats = max(1, round(len(good) * each * (1 - GOOD_SHARE) / GOOD_SHARE / len(others)))
    places += [((turn + 0.5) / repeats, one) for turn in range(repeats) for one in others]
    return [one for _, one in sorted(places, key=lambda place: place[0])]


async def bench(
    options: argparse.Namespace, directory: Path, servers: EmbeddedServers, dsn: str, bar: Bar
) -> Found:
    """All that was asked for; the report as JSON-able data. Raises NotStock."""
    end_on_sigterm()
    endpoints = 2 + options.many + GOOD + 2 * options.each * (1 + options.rounds)
    certificate = make_certificate(directory) if options.tls else None
    opened = open_hooks(directory, servers, dsn, endpoints, bar, certificate)
    async with opened as place:
        made = Bench(place, bar, options)
        found: Found = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "transport": "TLS" if options.tls else "http",
        }
        if options.what != "fairness":
            found["speed"] = await made.speed()
        if options.what != "speed":
            found["fairness"] = await made.fairness()
        bar.step("stopping the gateway")
    return {**found, "problems": made.problems}


def run(options: argparse.Namespace, bar: Bar) -> Found:
    """Start PostgreSQL, measure, stop it again."""
    with fresh_directory(options.data_parent) as directory:
        bar.step("starting PostgreSQL")
        with commit_times(directory) as (servers, dsn):
            return asyncio.run(bench(options, directory, servers, dsn, bar))


def make_certificate(folder: Path) -> Path:
    """A key and a certificate of its own for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "hooks.pem"
    file.touch(0o600)
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return file


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-webhooks", description="Measure webhooks.")
    parser.add_argument("--what", choices=("all", "speed", "fairness"), default="all")
    parser.add_argument("--rate", type=float, default=100_000 / 60, help="finals a second")
    parser.add_argument("--many", type=int, default=1000, help="endpoints of the last form")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each form, each round")
    parser.add_argument("--speed-rounds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="of the fairness part")
    parser.add_argument("--turn", type=float, default=16.0, metavar="S", help="half a round")
    parser.add_argument("--fair-rate", type=float, default=800.0, help="finals a second there")
    parser.add_argument("--each", type=int, default=1, help="so many hang, and so many are slow")
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="S")
    parser.add_argument("--tls", action="store_true", help="endpoints speak TLS")
    parser.add_argument("--quick", action="store_true", help="to see whether it works")
    parser.add_argument("--record", action="store_true", help="keep the figures for comparisons")
    add_report_options(parser, "tables")
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    if options.quick:
        options.many, options.seconds, options.speed_rounds, options.warm_up = 20, 2.0, 1, 1.0
        options.rounds, options.turn = 1, 3.0
    console = Console(stderr=True)
    found = measured("bench-webhooks", lambda bar: run(options, bar), console)
    then = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    webhookreport.compare(found, then)
    print_found(found, options, lambda found: webhookreport.show(found, then, Console()))
    print_problems(found["problems"], console)
    if options.record and not found["problems"]:
        RECORD.parent.mkdir(exist_ok=True)
        kept = {**then, **found}
        RECORD.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
