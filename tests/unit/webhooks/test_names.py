from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from webhooks import names
from webhooks.names import KNOWN_THREADS, NEW_THREADS, Names

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]


class World:
    """A name server that is silent about some names until it is told to speak."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silent: set[str] = set()
        self.errors: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.speak = threading.Event()
        self.names = Names(0.05, self.ask, lambda: self.now)

    def ask(self, host: str, *_: object) -> list[tuple[object, ...]]:
        self.asked[host] += 1
        if host in self.silent:
            self.speak.wait(30)
        if host in self.errors:
            raise socket.gaierror(self.errors[host], "told so")
        return list(ANSWER)

    async def addresses(self, host: str) -> list[str]:
        return [found["host"] for found in await self.names.resolve(host, 443)]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(names, "OLD_AFTER_S", 0.01)
    made = World()
    yield made
    made.speak.set()
    await made.names.close()


async def test_a_name_gets_its_addresses_with_the_port(world: World):
    (found,) = await world.names.resolve("a.example", 8443)
    assert (found["host"], found["port"], found["hostname"]) == ("192.0.2.1", 8443, "a.example")
    assert await world.names.resolve("a.example", 8443, socket.AF_INET6) == []


async def test_names_that_hang_do_not_keep_known_ones_waiting(world: World):
    known = [f"known{number}.example" for number in range(KNOWN_THREADS)]
    for host in known:
        await world.addresses(host)
    world.silent = {f"bad{number}.example" for number in range(NEW_THREADS + 8)}
    hanging = [world.addresses(host) for host in world.silent]
    found = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(one, TimeoutError) for one in found)
    for host in known:
        assert await world.addresses(host) == ["192.0.2.1"]
        assert world.asked[host] == 2  # a thread was free for it


async def test_a_name_that_hangs_is_asked_for_once_and_holds_one_thread(world: World):
    world.silent = {"bad.example"}
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await world.addresses("bad.example")
    assert world.asked == {"bad.example": 1}
    world.speak.set()
    assert await world.addresses("bad.example") == ["192.0.2.1"]


async def test_a_name_that_hangs_does_not_keep_the_process_from_ending(world: World):
    world.silent = {"bad.example"}
    with pytest.raises(TimeoutError):
        await world.addresses("bad.example")
    hanging = [one for one in threading.enumerate() if "-names" in one.name]
    assert hanging
    assert all(one.daemon for one in hanging)
    await world.names.close()


async def test_a_known_name_is_served_from_memory_while_its_server_is_silent(world: World):
    await world.addresses("a.example")
    world.silent = {"a.example"}
    assert await world.addresses("a.example") == ["192.0.2.1"]
    world.now += names.OLD_UNTIL_S + 1
    with pytest.raises(TimeoutError):
        await world.addresses("a.example")


async def test_a_server_that_is_away_is_bridged_and_a_name_that_is_gone_is_not(world: World):
    await world.addresses("a.example")
    world.errors["a.example"] = socket.EAI_AGAIN
    assert await world.addresses("a.example") == ["192.0.2.1"]
    world.errors["a.example"] = socket.EAI_NONAME
    with pytest.raises(socket.gaierror):
        await world.addresses("a.example")
    world.errors["a.example"] = socket.EAI_AGAIN
    with pytest.raises(socket.gaierror):
        await world.addresses("a.example")


async def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(names, "MOST_NAMES", 3)
    for number in range(10):
        world.now += names.OLD_UNTIL_S
        await world.addresses(f"{number}.example")
    assert len(world.names._names) <= 3
