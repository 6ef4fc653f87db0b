"""The fault proxy on real sockets of this machine: what each fault looks like from both sides."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from loadtest.linkfault import LinkFault, Way
from loadtest.proxy import Proxy

SOON_S = 5.0
SILENCE_S = 0.15


@dataclass
class Echo:
    """A server that gives back what it gets, and notes how its connections ended."""

    port: int = 0
    got: bytes = b""
    ends: list[str] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.got += data
                writer.write(data)
            self.ends.append("closed")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            self.came.set()
            writer.close()


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def asks(self, data: bytes) -> bytes:
        """What comes back for it, as many bytes."""
        self.writer.write(data)
        async with asyncio.timeout(SOON_S):
            return await self.reader.readexactly(len(data))

    async def end(self) -> str:
        """How the connection ends."""
        try:
            async with asyncio.timeout(SOON_S):
                while await self.reader.read(1 << 16):
                    pass
        except ConnectionResetError:
            return "reset"
        return "closed"

    async def is_silent(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                await self.reader.read(1)
                return False
        return True


class Line:
    """A proxy between clients and an echo."""

    def __init__(self, proxy: Proxy, echo: Echo) -> None:
        self.proxy = proxy
        self.echo = echo
        self._clients: list[Client] = []

    async def client(self) -> Client:
        made = Client(*await asyncio.open_connection("127.0.0.1", self.proxy.port))
        self._clients.append(made)
        return made

    def end(self) -> None:
        for client in self._clients:
            client.writer.close()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    proxy = Proxy("127.0.0.1", echo.port, seed=1)
    await proxy.listen()
    made = Line(proxy, echo)
    yield made
    made.end()
    await proxy.close()
    server.close()
    for _ in range(3):
        await asyncio.sleep(0)


async def test_bytes_pass_both_ways_and_the_end_does_too(line):
    client = await line.client()
    data = bytes(range(256)) * 4000
    assert await client.asks(data) == data
    client.writer.close()
    async with asyncio.timeout(SOON_S):
        await line.echo.came.wait()
    assert line.echo.ends == ["closed"]
    assert line.proxy.shown()["bytes_to_server"] == len(data)


async def test_a_delay_is_felt_on_its_way_alone(line):
    client = await line.client()
    await client.asks(b"ready")
    await line.proxy.set(LinkFault(down=Way(delay_ms=120)))
    started = time.monotonic()
    assert await client.asks(b"late") == b"late"
    assert time.monotonic() - started >= 0.12


async def test_a_throttle_is_felt(line):
    client = await line.client()
    await line.proxy.set(LinkFault(up=Way(bytes_per_s=20_000)))
    started = time.monotonic()
    assert await client.asks(bytes(4000)) == bytes(4000)
    assert time.monotonic() - started >= 0.19


async def test_reset_is_seen_by_both_sides(line):
    client = await line.client()
    await client.asks(b"ready")
    assert line.proxy.reset() == 1
    assert await client.end() == "reset"
    async with asyncio.timeout(SOON_S):
        await line.echo.came.wait()
    assert line.echo.ends == ["reset"]
    assert await (await line.client()).asks(b"again") == b"again"


async def test_a_refused_door_keeps_connections_and_takes_none(line):
    client = await line.client()
    await client.asks(b"ready")
    await line.proxy.set(LinkFault(door="refused"))
    with pytest.raises(ConnectionRefusedError):
        await line.client()
    assert await client.asks(b"still here") == b"still here"
    await line.proxy.heal()
    assert await (await line.client()).asks(b"again") == b"again"


async def test_a_silent_door_takes_connections_and_leads_nowhere(line):
    await line.proxy.set(LinkFault(door="silent"))
    client = await line.client()
    client.writer.write(b"anybody?")
    assert await client.is_silent()
    assert line.echo.got == b""
    await line.proxy.heal()
    assert await client.end() == "reset"


async def test_dropped_bytes_are_gone_and_the_link_stays_up_until_it_is_healed(line):
    client = await line.client()
    await client.asks(b"ready")
    await line.proxy.set(LinkFault(down=Way(drop=True)))
    client.writer.write(b"heard")
    assert await client.is_silent()
    assert line.echo.got == b"readyheard"
    assert line.proxy.shown()["dropped"] == len(b"heard")
    await line.proxy.heal()
    assert await client.end() == "reset"


async def test_a_stall_ends_without_a_loss(line):
    client = await line.client()
    await line.proxy.set(LinkFault(up=Way(stall=True)))
    client.writer.write(b"waits")
    assert await client.is_silent()
    await line.proxy.heal()
    async with asyncio.timeout(SOON_S):
        assert await client.reader.readexactly(5) == b"waits"


@pytest.mark.parametrize("side", ["server", "client"])
async def test_half_open_leaves_one_side_in_the_dark(line, side):
    client = await line.client()
    await client.asks(b"ready")
    assert line.proxy.half_open(side) == 1
    if side == "server":
        client.writer.write(b"anybody?")
        assert await client.is_silent()
        async with asyncio.timeout(SOON_S):
            await line.echo.came.wait()
        assert line.echo.ends == ["reset"]
    else:
        assert await client.end() == "reset"
        assert not line.echo.came.is_set()
    await line.proxy.heal()
    async with asyncio.timeout(SOON_S):
        await line.echo.came.wait()


async def test_a_cut_gives_exactly_so_many_bytes(line):
    client = await line.client()
    await line.proxy.set(LinkFault(down=Way(cut_after=1000)))
    client.writer.write(bytes(5000))
    async with asyncio.timeout(SOON_S):
        assert await client.reader.readexactly(1000) == bytes(1000)
    assert await client.end() in ("closed", "reset")
    assert line.proxy.shown()["cuts"] == 1


async def test_a_garbled_byte_is_another_one(line):
    client = await line.client()
    await line.proxy.set(LinkFault(up=Way(garble_at=2)))
    assert await client.asks(b"abcd") == b"ab\x9cd"
    assert line.proxy.shown()["garbled"] == 1


async def test_whoever_leads_nowhere_is_reset(line):
    proxy = Proxy("127.0.0.1", line.echo.port)
    await proxy.listen()
    taken = Proxy("127.0.0.1", proxy.port)
    await proxy.close()
    await taken.listen()
    client = Client(*await asyncio.open_connection("127.0.0.1", taken.port))
    assert await client.end() == "reset"
    client.writer.close()
    await taken.close()
    assert taken.shown()["unreachable"] == 1


async def test_the_command_and_its_control_port(line):
    command = [sys.executable, "-m", "loadtest.proxy", "--to", f"127.0.0.1:{line.echo.port}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        client = Client(*await asyncio.open_connection("127.0.0.1", told["port"]))
        assert await client.asks(b"ready") == b"ready"
        base = f"http://127.0.0.1:{told['control_port']}"
        async with aiohttp.ClientSession(base, trust_env=False) as http:
            async with http.post("/fault", json={"door": "ajar"}) as answer:
                assert (answer.status, (await answer.json())["code"]) == (422, "fault.invalid")
            async with http.post("/half-open", data=b"{") as answer:
                assert answer.status == 422
            async with http.post("/fault", json={"down": {"drop": True}}) as answer:
                assert (await answer.json())["down"]["drop"] is True
            client.writer.write(b"heard")
            assert await client.is_silent()
            async with http.get("/counts") as answer:
                told = await answer.json()
                assert (told["dropped"], told["open"]) == (5, 1)
            async with http.post("/heal") as answer:
                assert (await answer.json())["down"]["drop"] is False
            assert await client.end() == "reset"
        client.writer.close()
    finally:
        process.terminate()
        assert await process.wait() == 0
