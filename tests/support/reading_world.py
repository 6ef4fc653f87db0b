"""A worker's doors over a real store, for tests of lists, the pull of events and usage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from gateway.api.app import build
from sms.config import Channel
from store.reading import Reading, open_reading
from tests.support.fake_flow import FakeFlow
from tests.support.postgres import World

MOBILE, UNICOM = 7, 8


class Door:
    """One worker's HTTP face that reads from a world's database; keys as in `fake_flow`."""

    def __init__(self, world: World, reading: Reading) -> None:
        self.reading = reading
        self.flow = FakeFlow()
        self.flow.keyring = world.keyring  # type: ignore[assignment]  # the real one, for both
        self.flow.keys = _with_pepper(self.flow, world.keyring.pepper)
        self.flow.reading = reading
        channels = {MOBILE: "mobile-a", UNICOM: "unicom-b"}
        known: Mapping[int, Channel] = {
            number: Channel(number, name, "smpp", {}) for number, name in channels.items()
        }
        object.__setattr__(self.flow.snapshot, "channels", known)
        self.app = build(self.flow)

    @classmethod
    async def open(cls, world: World) -> Door:
        return cls(world, await open_reading(world.dsn, world.keyring))

    async def close(self) -> None:
        self.reading.pool.terminate()

    async def call(self, method: str, path: str, *, key: str = "both", **more: Any) -> Any:
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": f"Bearer {self.flow.keys[key]}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.request(method, path, headers=headers, **more)

    async def page(self, key: str = "both", **filters: Any) -> dict[str, Any]:
        """One page of the list; raises for what is no 200."""
        answer = await self.call("GET", "/v1/messages", key=key, params=filters)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def all(self, key: str = "both", *, pages: int = 1000, **filters: Any) -> list[Any]:
        """Every page of the list, joined."""
        found: list[Any] = []
        for _ in range(pages):
            page = await self.page(key, **filters)
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            filters["cursor"] = page["next_cursor"]
        raise AssertionError("the list has no end")


def _with_pepper(flow: FakeFlow, pepper: bytes) -> dict[str, str]:
    """The same keys, hashed with the pepper of the world."""
    from dataclasses import replace

    from gateway.api.auth import new_key

    texts: dict[str, str] = {}
    keys = dict(flow.snapshot.api_keys)
    for number, key in keys.items():
        texts[key.name], digest = new_key(pepper, number)
        keys[number] = replace(key, secret_hash=digest)
    object.__setattr__(flow.snapshot, "api_keys", keys)
    return texts


def now_ms() -> float:
    """Unix seconds in whole milliseconds, as the door gives them to messages."""
    return int(time.time() * 1000) / 1000
