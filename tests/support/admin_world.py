"""A worker's doors over a real configuration store, and several of them over one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.api.access import Access
from gateway.api.address import Addresses
from gateway.api.app import build_doors
from gateway.api.auth import new_key
from sms.config import Snapshot
from store import database
from store.audit import Author
from store.config import ConfigStore
from store.objects import Upsert
from store.seal import Keyring
from tests.support.fake_flow import FakeFlow
from tests.support.postgres import MASTER

SETUP = Author("command", "test", os_user="tester")
ROUTE = Upsert(
    "route",
    "*/*/*/*",
    {"tenant": "*", "class": "*", "carrier": "*", "country": 0, "channels": ["mobile-a"]},
    {},
)
CHANNEL = Upsert(
    "channel", "mobile-a", {"protocol": "smpp", "settings": {"host": "h"}}, {"password": "p"}
)


SEND = {"to": "+8613800138000", "text": "您的验证码是 482913", "class": "otp"}
NOBODY = f"ten_{99:016x}"


class Process:
    """One worker: a flow in memory, the real store, doors; the clock is set by hand."""

    def __init__(self, pool: database.Pool, *, trusted: Sequence[str] = ()) -> None:
        keyring = Keyring(MASTER)
        self.store = ConfigStore(pool, keyring)
        self.now = 1_800_000_000.0
        self.flow = FakeFlow()
        self.flow.snapshot = Snapshot()
        self.flow.keyring = keyring  # type: ignore[assignment]  # the real one has the pepper too
        self.flow.access = Access(
            addresses=Addresses(trusted),
            config=self.store,
            refresh=self.poll,
            now=lambda: self.now,
        )
        self.app, self.quick = build_doors(self.flow)

    async def poll(self) -> None:
        """What the worker does each second."""
        if await self.store.version() != self.flow.snapshot.version:
            self.flow.snapshot = await self.store.load()

    async def call(
        self,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        *,
        peer: str = "192.0.2.7",
        headers: Sequence[tuple[str, str]] = (),
    ) -> httpx.Response:
        """One request; `body` is JSON, or bytes as they are."""
        pairs = list(headers)
        if key is not None:
            pairs.append(("authorization", f"Bearer {key}"))
        transport = httpx.ASGITransport(self.app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            if body is None or isinstance(body, bytes):
                return await http.request(method, path, content=body, headers=pairs)
            return await http.request(method, path, json=body, headers=pairs)


class World:
    """Two processes on one database, and an admin key."""

    def __init__(self, pool: database.Pool, ops: str) -> None:
        self.one = Process(pool)
        self.two = Process(pool)
        self.ops = ops

    @classmethod
    async def make(cls, pool: database.Pool) -> World:
        """With a channel, a route, and the admin key `ops`."""
        keyring = Keyring(MASTER)
        text, digest = new_key(keyring.pepper, 0x8000_0000_0001)
        spec = {"tenant": None, "name": "ops", "scopes": ["admin"], "key_id": 0x8000_0000_0001}
        key = Upsert("api_key", "/ops", spec, {"secret_hash": digest.hex()})
        await ConfigStore(pool, keyring).apply([CHANNEL, ROUTE, key], SETUP)
        world = cls(pool, text)
        for process in (world.one, world.two):
            await process.poll()
        return world

    async def admin(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """One administrative request, to the first process."""
        return await self.one.call(method, path, self.ops, body, **more)

    async def tenant(self, name: str = "shop", **fields: Any) -> str:
        """A new tenant that may send; its id."""
        body = {"name": name, "signatures": ["某商城"], **fields}
        answer = await self.admin("POST", "/v1/tenants", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def key(self, tenant: str, name: str = "backend", **fields: Any) -> dict[str, str]:
        """A new key of a tenant, as it was shown."""
        path = f"/v1/tenants/{tenant}/api-keys"
        answer = await self.admin("POST", path, {"name": name, **fields})
        assert answer.status_code == 201, answer.text
        told: dict[str, str] = answer.json()
        return told


@asynccontextmanager
async def open_world(dsn: str) -> AsyncIterator[World]:
    """A world on this database, for one test."""
    pool = await database.open_pool(dsn, size=4)
    yield await World.make(pool)
    pool.terminate()


def code(answer: httpx.Response) -> tuple[int, str]:
    """The status of a refusal, and its code."""
    return answer.status_code, answer.json()["code"]


async def audit(world: World, **query: Any) -> list[dict[str, Any]]:
    """The audit log, newest first."""
    answer = await world.admin("GET", "/v1/audit-events", **query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows
