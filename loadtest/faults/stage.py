"""One stock gateway with a primary and three backups of one protocol, each behind a fault proxy.

The carriers are processes, as in the sandbox; the proxies live in this one. The sandbox's own
carriers stand beside and get nothing: a route of our tenant comes before theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from loadtest.linkfault import LinkFault
from loadtest.proxy import Proxy
from loadtest.stock_gateway import NotStock, StockGateway, environment

TENANT: Final = "faults"
CHANNELS: Final = 4  # a primary and three backups (RELIABILITY section 7)
LIMIT: Final = 1_000_000
STARTED_S: Final = 10.0
LATENCY_MS: Final = 20
RECEIPT_DELAY_MS: Final = 300
PROTOCOLS: Final[Mapping[str, Mapping[str, Any]]] = {
    "smpp": {
        "protocol": "smpp",
        "system_id": "faults",
        "password_file": "sandbox/carrier.pw",
        "bind": "trx",
        "window": 100,
        "status_classes": {"0x0401": "perm_blacklist", "0x0402": "perm_content"},
    },
    "cmpp": {
        "protocol": "cmpp3",
        "source_addr": "900001",
        "shared_secret_file": "sandbox/carrier.pw",
        "sender": "10690001",
        "number_format": "e164",
        "window": 16,
        "status_classes": {
            "53": "temp_network",
            "101": "perm_blacklist",
            "102": "perm_content",
        },
    },
}
# What a carrier of that protocol says to a number that does not exist, one on its blacklist, a text
# that it refuses: the last two are its own codes, as `status_classes` above says.
REFUSALS: Final[Mapping[str, tuple[int, int, int]]] = {
    "smpp": (0x0B, 0x401, 0x402),
    "cmpp": (13, 101, 102),
}
# What a failing one says: its own fault. CMPP's standard has no code for that, and its 3 only asks
# for another sequence number.
FAILURES: Final[Mapping[str, int]] = {"smpp": 0x08, "cmpp": 53}


@dataclass(slots=True)
class Link:
    """One channel: its proxy and the carrier behind it."""

    name: str
    proxy: Proxy
    control_url: str
    record: Path


@dataclass(slots=True)
class Moment:
    """Something that was done, for plots and judging."""

    at: float  # Unix
    text: str


@dataclass(slots=True)
class Stage:
    """What a row's story acts on; made by `staged`."""

    protocol: str
    gateway: StockGateway
    links: Sequence[Link]
    http: aiohttp.ClientSession
    api_key: str
    started_at: float = 0.0  # of the traffic, Unix
    moments: list[Moment] = field(default_factory=list)

    @property
    def primary(self) -> Link:
        """The channel that all messages go to first."""
        return self.links[0]

    async def at(self, seconds: float) -> None:
        """Until so many seconds after the traffic began."""
        await asyncio.sleep(max(0.0, self.started_at + seconds - time.time()))

    def mark(self, text: str) -> None:
        """Note that this was done now."""
        self.moments.append(Moment(time.time(), text))

    def when(self, text: str) -> float:
        """When that was done last (Unix); raises KeyError."""
        for moment in reversed(self.moments):
            if moment.text == text:
                return moment.at
        raise KeyError(text)

    async def behave(self, link: Link, **fields: object) -> None:
        """Change how a carrier behaves (loadtest/behaviour.py)."""
        async with self.http.post(f"{link.control_url}/behaviour", json=fields) as answer:
            if answer.status != 200:
                raise NotStock(f"{link.name} refused {fields}: {await answer.text()}")

    async def ask(self, path: str, body: Mapping[str, object]) -> None:
        """POST with the admin key; raises NotStock unless it is done."""
        headers = {"Authorization": f"Bearer {self.gateway.admin_key}"}
        url = self.gateway.url + path
        async with self.http.post(url, json=body, headers=headers) as answer:
            if answer.status >= 300:
                raise NotStock(f"{path} was refused: {(await answer.text())[:500]}")

    async def is_up(self) -> bool:
        """Whether every channel has a session."""
        text = await self.gateway.scrape()
        return all(
            f'smsgw_channel_state{{channel="{link.name}",state="up"}} 1' in text
            for link in self.links
        )


def configuration(
    links: Sequence[Link], protocol: str, sink_url: str, more: Mapping[str, Any]
) -> str:
    """Our tenant, its channels and its one route as YAML; `more` are fields of every channel."""
    channels = [
        {
            "name": link.name,
            "host": "127.0.0.1",
            "port": link.proxy.port,
            "sessions": 2,
            "segments_per_second": LIMIT,
            "classes": ["otp", "transactional", "marketing"],
            **PROTOCOLS[protocol],
            **more,
        }
        for link in links
    ]
    tenant = {
        "name": TENANT,
        "signatures": ["故障"],
        "countries": [86, 1],
        "limits": {"segments_per_second": LIMIT, "burst_segments": LIMIT},
        "otp_caps": {"prefix_burst": 0},  # numbers follow one another
        "api_keys": [{"name": TENANT, "scopes": ["send", "read"], "secret_file": f"{TENANT}.key"}],
    }
    route = {
        "tenant": TENANT,
        "class": "*",
        "carrier": "*",
        "channels": [link.name for link in links],
    }
    endpoint = {
        "tenant": TENANT,
        "url": sink_url,
        "events": ["message.*"],
        "batch": True,
        "full_number": True,  # judged number by number
        "secret_file": "sandbox/webhook.secret",
    }
    parts = {
        "tenants": [tenant],
        "channels": channels,
        "routes": [route],
        "webhook_endpoints": [endpoint],
    }
    return "".join(  # JSON is YAML too; a line for each object keeps complaints readable
        f"{name}:\n" + "".join(f"  - {json.dumps(one, ensure_ascii=False)}\n" for one in objects)
        for name, objects in parts.items()
    )


@contextlib.asynccontextmanager
async def staged(
    gateway: StockGateway, protocol: str, seed: int, channel: Mapping[str, Any]
) -> AsyncIterator[Stage]:
    """Carriers, proxies and configuration round a gateway that is ready; raises NotStock."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=timeout, trust_env=False)
        )
        links = []
        for place in range(CHANNELS):
            link = await stack.enter_async_context(
                _link(gateway, protocol, f"{protocol}-{place + 1}", seed + place)
            )
            links.append(link)
        file = gateway.data_dir / "faults.yaml"
        file.write_text(configuration(links, protocol, gateway.sink_url, channel), "utf-8")
        await gateway.apply(file)
        key = (gateway.data_dir / f"{TENANT}.key").read_text("utf-8").strip()
        stage = Stage(protocol, gateway, links, http, key)
        await until(stage.is_up, "the channels are up")
        yield stage


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for it; raises NotStock after ten seconds."""
    end = time.monotonic() + STARTED_S
    while not await is_so():
        if time.monotonic() > end:
            raise NotStock(f"after {STARTED_S:g} s it is still not true that {what}")
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _link(gateway: StockGateway, protocol: str, name: str, seed: int) -> AsyncIterator[Link]:
    """A carrier and the proxy before it."""
    record = gateway.data_dir / "carriers" / f"{name}.jsonl"
    own = PROTOCOLS[protocol]
    with (gateway.data_dir / "log" / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "loadtest.carrier", "--json", "--name", name),
            *("--protocol", own["protocol"], "--port", "0", "--control-port", "0"),
            *("--record", str(record), "--latency-ms", str(LATENCY_MS)),
            *("--receipt-delay-ms", str(RECEIPT_DELAY_MS)),
            *("--system-id", own.get("system_id") or own["source_addr"]),
            *("--password-file", str(gateway.data_dir / "sandbox" / "carrier.pw")),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environment(gateway.data_dir),
        )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        line = await process.stdout.readline()
        if not line:
            raise NotStock(f"the simulated carrier {name} does not start")
        told = json.loads(line)
        proxy = Proxy("127.0.0.1", told["port"], seed=seed, fault=LinkFault())
        await proxy.listen()
        try:
            yield Link(name, proxy, told["control_url"], record)
        finally:
            await proxy.close()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
