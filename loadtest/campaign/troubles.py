"""What is wrong with carriers and their links while processes are killed: the table of issue 7.

    China Mobile    cmpp-link ──proxy──▶ a carrier over CMPP 3.0
    Broadnet        smpp-link ──proxy──▶ a carrier over SMPP 3.4
    some of Unicom and Telecom    vendor-a, a vendor over HTTP, before their own carriers

Both carriers are processes of the campaign beside the sandbox's, and the proxies live in it, so no
fault of a campaign touches them. The sandbox's carriers are the backups.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from random import Random
from typing import Any, Final

from loadtest.campaign.node import ROUGH, Broken, Node
from loadtest.linkfault import LinkFault, Way
from loadtest.proxy import Proxy
from loadtest.stock_gateway import environment

VENDOR: Final = "vendor-a"
LINKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "cmpp-link": {
        "protocol": "cmpp3",
        "source_addr": "900001",
        "shared_secret_file": "sandbox/carrier.pw",
        "number_format": "e164",
        "sender": "10690001",
        "countries": [86],
    },
    "smpp-link": {
        "protocol": "smpp",
        "system_id": "global",
        "password_file": "sandbox/carrier.pw",
        "bind": "trx",
    },
}
_ANY: Final = "*"
# (class, carrier, channels in order) of the sandbox's tenant: a quarter of all goes to the vendor.
ROUTES: Final = (
    (_ANY, "CM", ("cmpp-link", "unicom-a", "telecom-a", VENDOR)),
    (_ANY, "CB", ("smpp-link", "mobile-a", "unicom-a", VENDOR)),
    ("transactional", "CU", (VENDOR, "unicom-a", "mobile-a")),
    ("otp", "CT", (VENDOR, "telecom-a", "mobile-a")),
    ("marketing", "CT", (VENDOR, "telecom-a", "mobile-a")),
)
# What is noticed after minutes in real life is noticed within a trouble here.
NOTICED_SOON: Final[Mapping[str, str]] = {
    "submit_timeout_otp_s": "3",
    "submit_timeout_s": "6",
    "uncertain_slot_s": "4",
    "health_link_errors": "5",
    "health_no_answer_s": "2",
    "health_failure_s": "4",
    "health_failure_least": "10",
    "health_failure_long_s": "20",
    "health_failure_long_least": "40",
    "health_slow_answer_s": "2",
    "health_slow_s": "4",
    "health_receipts_from_s": "4",
    "health_receipts_until_s": "8",
    "health_receipts_least": "20",
    "health_open_s": "3",
    "health_open_cap_s": "10",
    "health_half_open_s": "5",
    "health_ramp_step_s": "2",
}
# Beside ROUGH, what a trouble may have changed.
CALM: Final[Mapping[str, Any]] = {
    **ROUGH,
    "silent": False,
    "throttle_share": 0,
    "takes_per_s": 0,
}
STARTED_S: Final = 20.0
LIMIT: Final = 1_000_000


class Bench:
    """The two links and whoever is told how to behave; every trouble ends by `heal`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.proxies: dict[str, Proxy] = {}

    async def spoil(self, fault: LinkFault, *, is_reset: bool = False) -> None:
        """The same is wrong with both links."""
        for proxy in self.proxies.values():
            await proxy.set(fault)
            if is_reset:
                proxy.reset()

    async def behave(self, **changes: Any) -> None:  # noqa: ANN401 – a carrier's own words
        """The primaries behave otherwise, the vendor among them."""
        await self.node.behave(changes, *self.proxies, VENDOR)

    async def heal(self) -> None:
        """Nothing is wrong any more."""
        for proxy in self.proxies.values():
            await proxy.heal()
        await self.node.behave(CALM)


Begin = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One kind of trouble; it stands until the bench is healed."""

    name: str
    begin: Begin


async def _all_down(bench: Bench) -> None:
    await bench.spoil(LinkFault(door="refused"), is_reset=True)
    await bench.node.behave({"link": "down"})


def _link(fault: LinkFault, *, is_reset: bool = False) -> Begin:
    async def begin(bench: Bench) -> None:
        await bench.spoil(fault, is_reset=is_reset)

    return begin


def _behaviour(**changes: Any) -> Begin:  # noqa: ANN401 – a carrier's own words
    async def begin(bench: Bench) -> None:
        await bench.behave(**changes)

    return begin


TROUBLES: Final = (
    Trouble("link.refused", _link(LinkFault(door="refused"), is_reset=True)),
    Trouble("link.hangs", _link(LinkFault(down=Way(drop=True)))),
    Trouble("link.stalls", _link(LinkFault(down=Way(stall=True)))),
    Trouble("silent", _behaviour(silent=True)),
    Trouble("receipts.late", _behaviour(receipt_delay_ms=12_000)),
    Trouble("slow", _behaviour(latency_ms=4_000)),
    Trouble("errors", _behaviour(failure_share=0.3)),
    Trouble("throttles", _behaviour(takes_per_s=10)),
    Trouble("all.down", _all_down),
)


def choose(patterns: str) -> list[Trouble]:
    """Those whose names fit one of the patterns (comma between them)."""
    wanted = [part.strip() for part in patterns.split(",")]
    return [one for one in TROUBLES if any(fnmatch(one.name, pattern) for pattern in wanted)]


def by_turns(troubles: Sequence[Trouble], count: int, rng: Random) -> list[Trouble]:
    """So many, each as often as the others, in any order."""
    found: list[Trouble] = []
    while troubles and len(found) < count:
        found += rng.sample(list(troubles), len(troubles))
    return found[:count]


def configuration(ports: Mapping[str, int]) -> str:
    """The links as channels and the routes that lead to them, as YAML; `ports` are the proxies'."""
    channels = [
        {
            "name": name,
            "host": "127.0.0.1",
            "port": ports[name],
            "sessions": 2,
            "window": 64,
            "segments_per_second": LIMIT,
            "classes": ["otp", "transactional", "marketing"],
            **own,
        }
        for name, own in LINKS.items()
    ]
    routes = [
        {"tenant": "sandbox", "class": which, "carrier": carrier, "channels": list(names)}
        for which, carrier, names in ROUTES
    ]
    return json.dumps({"channels": channels, "routes": routes})  # JSON is YAML too


@contextlib.asynccontextmanager
async def opened(node: Node, seed: int) -> AsyncIterator[Bench]:
    """Carriers, proxies and routes beside a node that is ready; raises Broken."""
    bench = Bench(node)
    async with contextlib.AsyncExitStack() as stack:
        for place, name in enumerate(LINKS):
            port = await stack.enter_async_context(_carrier(node, name))
            proxy = Proxy("127.0.0.1", port, seed=seed + place)
            stack.push_async_callback(proxy.close)
            await proxy.listen()
            bench.proxies[name] = proxy
        await node.apply(configuration({name: p.port for name, p in bench.proxies.items()}))
        await node.has_links(bench.proxies, STARTED_S)
        yield bench


@contextlib.asynccontextmanager
async def _carrier(node: Node, name: str) -> AsyncIterator[int]:
    """A simulated carrier beside the sandbox's; its port."""
    own = LINKS[name]
    with (node.folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "loadtest.carrier", "--json", "--name", name),
            *("--protocol", own["protocol"], "--port", "0", "--control-port", "0"),
            *("--record", str(node.records / f"{name}.jsonl")),
            *("--system-id", own.get("system_id") or own["source_addr"]),
            *("--password-file", str(node.data_dir / "sandbox" / "carrier.pw")),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environment(node.folder),
        )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        line = await process.stdout.readline()
        if not line:
            raise Broken(f"the simulated carrier {name} does not start")
        told = json.loads(line)
        node.beside.append({"name": name, "control_url": told["control_url"]})
        yield int(told["port"])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
