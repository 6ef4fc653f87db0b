"""Real sockets on loopback: what leaves, what is refused, what a bad peer can do."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook
from yarl import URL

from tests.support.notify_world import World, endpoint
from webhooks.address import AllowList
from webhooks.deliver import (
    Delivered,
    Deliverer,
    Delivery,
    DeliveryPolicy,
    Failed,
    Fault,
    Gone,
    Target,
    parse_target,
)
from webhooks.sign import new_secret

pytestmark = pytest.mark.integration

SHORT = DeliveryPolicy(connect_s=0.3, total_s=0.6, answer_bytes=65536)
SECRET, KEY = new_secret()
BODY = b'{"id":"evt_1","type":"message.delivered","timestamp":"x","data":{}}'


class Peer:
    """A server that keeps what it got and answers with given bytes, or not at all."""

    def __init__(self, answer: bytes | None = b"HTTP/1.1 204 No Content\r\n\r\n") -> None:
        self.answer = answer
        self.is_closing = False
        self.connections = 0
        self.open = 0  # of them, now
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Peer:
        self._server = await asyncio.start_server(self._serve, host, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")[1:]
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines if line)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((headers, body))
                if self.answer is None:
                    await asyncio.sleep(60)
                    return
                writer.write(self.answer)
                await writer.drain()
                if self.is_closing:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = await Peer().start()
    yield made
    await made.stop()


@pytest.fixture
async def deliverer() -> AsyncIterator[Deliverer]:
    made = Deliverer(SHORT)
    yield made
    await made.close()


@pytest.fixture
async def patient() -> AsyncIterator[Deliverer]:
    """Where no time is judged: a request that the machine holds up is not tried again."""
    made = Deliverer(DeliveryPolicy(connect_s=30, total_s=60))
    yield made
    await made.close()


def exempt(peer: Peer) -> Target:
    target = parse_target(peer.origin + "/hook?x=1", AllowList.of([peer.origin]))
    assert isinstance(target, Target)
    return target


async def send(deliverer: Deliverer, target: Target, keys: tuple[bytes, ...] = (KEY,)) -> Delivery:
    return await deliverer.deliver(target, keys, "evt_0000000000000001", BODY)


async def test_what_arrives_verifies_with_the_independent_library(
    peer: Peer, deliverer: Deliverer
) -> None:
    other_secret, other = new_secret()
    assert await send(deliverer, exempt(peer), (KEY, other)) == Delivered(204)
    ((headers, body),) = peer.requests
    assert body == BODY
    for secret in (SECRET, other_secret):
        assert Webhook(secret).verify(body, headers) == json.loads(BODY)
    assert headers["webhook-id"] == "evt_0000000000000001"
    assert headers["content-type"] == "application/json"


async def test_connections_are_used_again(peer: Peer, deliverer: Deliverer) -> None:
    for _ in range(5):
        assert await send(deliverer, exempt(peer)) == Delivered(204)
    assert peer.connections == 1


async def test_no_more_connections_stay_open_than_descriptors_are_kept_for_it() -> None:
    few = DeliveryPolicy(connect_s=30, total_s=60, kept=2)
    deliverer, peers = Deliverer(few), [await Peer().start() for _ in range(5)]
    try:
        for _ in range(2):
            for peer in peers:
                assert await send(deliverer, exempt(peer)) == Delivered(204)
            await asyncio.sleep(0.1)
            assert [peer.open for peer in peers] == [1, 1, 0, 0, 0]
        for peer in peers[:2]:
            await peer.stop()  # they close what was kept: there is room for others
        await asyncio.sleep(0.1)
        for _ in range(3):
            for peer in peers[2:4]:
                assert await send(deliverer, exempt(peer)) == Delivered(204)
        await asyncio.sleep(0.1)
        assert [peer.open for peer in peers] == [0, 0, 1, 1, 0]
    finally:
        await deliverer.close()
        for peer in peers[2:]:
            await peer.stop()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_refused_and_not_followed(
    peer: Peer, deliverer: Deliverer, status: int
) -> None:
    peer.answer = (
        f"HTTP/1.1 {status} Moved\r\nlocation: {peer.origin}/other\r\ncontent-length: 0\r\n\r\n"
    ).encode()
    assert await send(deliverer, exempt(peer)) == Failed(Fault.REDIRECT, status)
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Gone()),
        (
            b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            Failed(Fault.STATUS, 429, 7.0),
        ),
        (
            b"HTTP/1.1 503 Busy\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n",
            Failed(Fault.STATUS, 503, 9.0),
        ),
        (
            b"HTTP/1.1 500 No\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n",
            Failed(Fault.STATUS, 500),
        ),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", Failed(Fault.STATUS, 404)),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", Failed(Fault.PROTOCOL)),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", Failed(Fault.PROTOCOL)),
    ],
)
async def test_answers_become_values(
    peer: Peer, deliverer: Deliverer, answer: bytes, expected: Delivery
) -> None:
    peer.answer = answer
    assert await send(deliverer, exempt(peer)) == expected


async def test_a_peer_that_hangs_costs_the_total_time_and_no_more(
    peer: Peer, deliverer: Deliverer
) -> None:
    peer.answer = None
    started = time.monotonic()
    assert await send(deliverer, exempt(peer)) == Failed(Fault.TIMEOUT)
    assert time.monotonic() - started < 10  # 0.6 s, and what a busy machine adds


async def test_a_connection_cut_before_the_status_is_a_failure(
    peer: Peer, deliverer: Deliverer
) -> None:
    peer.answer, peer.is_closing = b"", True
    assert await send(deliverer, exempt(peer)) == Failed(Fault.CUT)


async def test_an_endless_answer_is_cut_off_and_still_a_success(
    peer: Peer, deliverer: Deliverer
) -> None:
    peer.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n" + b"x" * 1_000_000
    started = time.monotonic()
    assert await send(deliverer, exempt(peer)) == Delivered(200)
    assert time.monotonic() - started < 0.5
    peer.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert await send(deliverer, exempt(peer)) == Delivered(200)
    assert peer.connections == 2


@pytest.mark.parametrize("is_closing", [True, False])
async def test_a_2xx_whose_body_never_ends_is_a_success(
    peer: Peer, deliverer: Deliverer, is_closing: bool
) -> None:
    peer.is_closing = is_closing
    peer.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal"
    assert await send(deliverer, exempt(peer)) == Delivered(200)


async def test_nobody_listening_is_a_failure(deliverer: Deliverer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{free.getsockname()[1]}"
        target = parse_target(origin, AllowList.of([origin]))
        assert isinstance(target, Target)
        assert await send(deliverer, target) == Failed(Fault.CONNECT)


async def test_a_peer_that_takes_no_connection_costs_the_connect_time(deliverer: Deliverer) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(4):  # fills the backlog: further SYNs stay unanswered
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        origin = f"http://127.0.0.1:{address[1]}"
        target = parse_target(origin, AllowList.of([origin]))
        assert isinstance(target, Target)
        assert await send(deliverer, target) == Failed(Fault.TIMEOUT)
        for filler in fillers:
            filler.close()


async def test_proxies_of_the_environment_are_not_used(
    peer: Peer, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await Peer().start()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.origin)
    assert await send(deliverer, exempt(peer)) == Delivered(204)
    assert proxy.connections == 0
    await proxy.stop()


# -- the final socket address ------------------------------------------------------------------

SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f.0.0.1",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
    "0",
    "0.0.0.0",
    "[::]",
    "169.254.169.254",
    "10.1.2.3",
    "[64:ff9b::a9fe:a9fe]",
    "[fe80::1]",
    "0177.1",
    "017700000001",
    "0x7f.1",
    "100.64.0.1",
    "192.88.99.1",
    "[::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[fec0::1]",
    "[5f00::1]",
    "[3fff::1]",
    "[ff02::1]",
]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_a_forbidden_address_is_connected_to(
    peer: Peer, deliverer: Deliverer, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.address.PORTS", frozenset({peer.port}))
    # Straight to the connector, past the checks on the text: a name may change after them.
    target = Target(URL(f"https://{host}:{peer.port}/"), is_exempt=False)
    delivery = await send(deliverer, target)
    assert isinstance(delivery, Failed)
    # A host without IPv6, or whose resolver rejects the spelling, fails before the check.
    assert delivery.fault in (Fault.ADDRESS_REFUSED, Fault.NAME)
    if host in ("127.0.0.1", "0x7f000001", "localhost", "[::1]"):
        assert delivery.fault is Fault.ADDRESS_REFUSED
    assert peer.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::1", "127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.1", "fd00::1"]],
)
async def test_a_name_that_resolves_to_a_forbidden_address_is_refused_at_connect(
    deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    def lie(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr("webhooks.deliver.socket.getaddrinfo", lie)
    target = parse_target("https://rebinding.example/", AllowList())
    assert isinstance(target, Target)
    assert await send(deliverer, target) == Failed(Fault.ADDRESS_REFUSED)


async def test_a_name_nobody_knows_is_a_failure(
    deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("webhooks.deliver.socket.getaddrinfo", unknown)
    target = Target(URL("https://nowhere.invalid/"), is_exempt=False)
    assert await send(deliverer, target) == Failed(Fault.NAME)


async def test_names_that_hang_are_given_up_after_the_connect_time(
    deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def slow(*_: object) -> list[tuple[object, ...]]:
        is_over.wait()
        return []

    monkeypatch.setattr("webhooks.deliver.socket.getaddrinfo", slow)
    target = Target(URL("https://slow.example/"), is_exempt=False)
    try:
        delivery = await send(deliverer, target)
    finally:
        is_over.set()
    assert delivery in (Failed(Fault.NAME), Failed(Fault.TIMEOUT))


async def test_an_exempt_connection_is_not_shared_with_a_tenants_url(
    peer: Peer, deliverer: Deliverer
) -> None:
    assert await send(deliverer, exempt(peer)) == Delivered(204)
    same = Target(exempt(peer).url, is_exempt=False)
    assert await send(deliverer, same) == Failed(Fault.ADDRESS_REFUSED)
    assert len(peer.requests) == 1


# -- TLS ---------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context, file


async def test_certificates_are_verified(tmp_path: Path) -> None:
    server, file = _certificate(tmp_path, "127.0.0.1")
    peer = await Peer().start(server)
    origin = f"https://127.0.0.1:{peer.port}"
    target = parse_target(origin, AllowList.of([origin]))
    assert isinstance(target, Target)
    doubtful = Deliverer(SHORT)
    trusting = Deliverer(SHORT, tls=ssl.create_default_context(cafile=str(file)))
    assert await send(doubtful, target) == Failed(Fault.TLS)
    assert peer.requests == []
    assert await send(trusting, target) == Delivered(204)
    for made in (doubtful, trusting):
        await made.close()
    await peer.stop()


async def test_plain_text_where_tls_is_expected_is_a_failure(
    peer: Peer, deliverer: Deliverer
) -> None:
    origin = f"https://127.0.0.1:{peer.port}"
    target = parse_target(origin, AllowList.of([origin]))
    assert isinstance(target, Target)
    delivery = await send(deliverer, target)
    assert isinstance(delivery, Failed)
    assert delivery.fault in (Fault.TLS, Fault.CUT, Fault.TIMEOUT, Fault.CONNECT)


# -- the sink as a process, and a notifier that sends to it ------------------------------------


class SinkProcess:
    """`python -m loadtest.sink` as a user starts it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        secret = folder / "hook.secret"
        secret.write_text(SECRET + "\n")
        command = [sys.executable, "-m", "loadtest.sink", "--port", "0", "--control-port", "0"]
        command += ["--secret-file", str(secret), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        assert told["event"] == "listening"
        self.origin = f"http://{told['host']}:{told['port']}"
        self._control = told["control_url"]

    async def get(self, path: str) -> dict[str, Any]:
        return await asyncio.to_thread(self._ask, path, None)

    async def behave(self, **fields: object) -> dict[str, Any]:
        return await asyncio.to_thread(self._ask, "/behaviour", json.dumps(fields).encode())

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(self._control + path, body, timeout=5) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(5) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(params=["in memory", "recording"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SinkProcess]:
    extra = ["--record", str(tmp_path / "sink.jsonl")] if request.param == "recording" else []
    made = SinkProcess(tmp_path, *extra)
    yield made
    made.stop()


async def eventually(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def joined(sink: SinkProcess, deliverer: Deliverer, *, batch: bool) -> World:
    world = World(deliver=deliverer.deliver, allow=AllowList.of([sink.origin]))
    world.configure(endpoint(url=sink.origin + "/hooks", batch=batch, secrets=(KEY,)))
    return world


@pytest.mark.parametrize("batch", [True, False])
async def test_every_event_reaches_the_sink_and_verifies(
    sink: SinkProcess, patient: Deliverer, batch: bool
) -> None:
    world = joined(sink, patient, batch=batch)
    await world.notifier.recover(until=0)
    rows = world.rows(550)
    world.notifier.rows_committed(rows)
    world.now += 1  # the clock of the test: what lingers may leave
    await world.notifier.tick()
    await eventually(lambda: world.notifier.cursor() == rows[-1].event_id)
    counts = await sink.get("/counts")
    assert counts["events"] == counts["distinct_events"] == 550
    assert counts["distinct_messages_final"] == 550
    assert counts["bad_signatures"] == counts["duplicates"] == 0
    assert counts["by_type"] == {"message.delivered": 550}
    assert counts["requests"] == (6 if batch else 550)
    message_id = f"msg_{rows[7].message_id:016x}"
    (event,) = (await sink.get(f"/events?message_id={message_id}"))["data"]
    assert event["data"]["id"] == message_id
    assert event["id"] == f"evt_{rows[7].event_id:016x}"
    await world.notifier.stop(1.0)


async def test_whatever_the_sink_does_all_events_arrive_in_the_end(
    sink: SinkProcess, deliverer: Deliverer
) -> None:
    world = joined(sink, deliverer, batch=True)
    await world.notifier.recover(until=0)
    await sink.behave(fail_share=0.5, status=503)
    rows = []
    for _ in range(20):
        rows += world.rows(100)
        world.notifier.rows_committed(rows[-100:])
        await asyncio.sleep(0.01)
    await sink.behave(fail_share=0.0, hang=True)
    rows += world.rows(100)
    world.notifier.rows_committed(rows[-100:])
    await asyncio.sleep(0.8)
    world.store.commit()
    await sink.behave(hang=False, close_mid_body=True)
    rows += world.rows(100)
    world.notifier.rows_committed(rows[-100:])
    await asyncio.sleep(0.1)
    await sink.behave(close_mid_body=False)
    end = time.monotonic() + 60
    while (await sink.get("/counts"))["distinct_events"] < 2200:
        assert time.monotonic() < end
        world.now += 100
        world.store.commit()
        await world.notifier.tick()
        await asyncio.sleep(0.05)
    world.store.commit()
    assert world.store.parked == {}
    assert world.notifier.cursor() == rows[-1].event_id
    assert (await sink.get("/counts"))["bad_signatures"] == 0
    await world.notifier.stop(1.0)


async def test_the_sink_refuses_what_is_not_signed_with_its_secret(
    sink: SinkProcess, deliverer: Deliverer
) -> None:
    target = parse_target(sink.origin, AllowList.of([sink.origin]))
    assert isinstance(target, Target)
    assert await send(deliverer, target, (b"x" * 32,)) == Failed(Fault.STATUS, 401)
    counts = await sink.get("/counts")
    assert (counts["bad_signatures"], counts["events"]) == (1, 0)


async def test_a_wrong_behaviour_is_refused_by_name(sink: SinkProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        await sink.behave(delay_ms=-1)
    with caught.value as answer:
        assert answer.code == 422
        assert b"/delay_ms" in answer.read()
