"""Where a webhook's connection really goes: the last word has the socket address (RELIABILITY 10).

Nobody listens at the public Internet here, so loopback stands for it where something must arrive:
`public` says which of our own addresses counts as public, and everything else is judged as ever.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from yarl import URL

from loadtest.sinks.manners import ELSEWHERE, Manner
from loadtest.sinks.receiver import Receiver, receiving
from tests.support import forbidden_addresses
from webhooks.address import refusal
from webhooks.deliver import Delivered, Deliverer, DeliveryPolicy, Failed, Fault, Target

pytestmark = pytest.mark.integration

KEY = b"k" * 32
EVENT_ID = "evt_0000000000000001"
BODY = b'{"id":"evt_0000000000000001","type":"webhook.test","data":{}}'
PUBLIC = "127.0.0.1"
LURED = "127.0.0.2"  # where a receiver of ours must not be called, for it is loopback
NAME = "http://rebinding.example"

ONCE = Manner(cut_answering=1.0)  # no connection is used twice: each one is judged anew

Lie = Callable[..., None]


@pytest.fixture
async def deliverer() -> AsyncIterator[Deliverer]:
    made = Deliverer(DeliveryPolicy(connect_s=5, total_s=10))
    yield made
    await made.close()


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Lie:
    """A name server that says what it is told to: one list of addresses after the other."""

    def lying(*answers: list[str]) -> None:
        left = list(answers)

        def resolve(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
            addresses = left.pop(0) if len(left) > 1 else left[0]
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

        monkeypatch.setattr("webhooks.deliver.socket.getaddrinfo", resolve)

    return lying


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 is of the public Internet, at any port; nothing else of loopback is."""
    monkeypatch.setattr(
        "webhooks.deliver.refusal",
        lambda host, port: None if host == PUBLIC else refusal(host, 443),
    )


async def send(deliverer: Deliverer, url: str) -> Delivered | Failed:
    target = Target(URL(url), is_exempt=False)
    told = await deliverer.deliver(target, (KEY,), EVENT_ID, BODY)
    assert isinstance(told, Delivered | Failed)
    return told


def port_of(receiver: Receiver) -> int:
    return URL(receiver.url).port or 0


def forget_names(deliverer: Deliverer) -> None:
    """As half a minute does."""
    for session in deliverer._sessions.values():
        assert isinstance(session.connector, aiohttp.TCPConnector)
        session.connector.clear_dns_cache()


async def test_a_name_for_any_forbidden_address_is_refused_at_connect(
    deliverer: Deliverer, lie: Lie
) -> None:
    for address in forbidden_addresses.addresses():
        lie([address])
        forget_names(deliverer)
        told = await send(deliverer, "https://rebinding.example/")
        assert told == Failed(Fault.ADDRESS_REFUSED), address


async def test_no_spelling_is_connected_to_when_the_text_is_not_asked(
    deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webhooks.deliver.socket.socket", lambda *_: opened.append("a socket"))
    known = 0
    for host in forbidden_addresses.hosts():
        told = await send(deliverer, f"https://{host}/")
        # What the system's resolver does not take for an address has none.
        assert told in (Failed(Fault.ADDRESS_REFUSED), Failed(Fault.NAME)), host
        known += told == Failed(Fault.ADDRESS_REFUSED)
    assert opened == []
    assert known > len(forbidden_addresses.V4_RANGES) * 10


async def test_a_name_that_is_public_first_and_private_later_is_refused_then(
    deliverer: Deliverer, lie: Lie, public: None
) -> None:
    async with receiving(Receiver(ONCE)) as sink:
        lie([PUBLIC], ["10.0.0.1"], [LURED], ["::ffff:127.0.0.1"])
        assert await send(deliverer, f"{NAME}:{port_of(sink)}/") == Delivered(200)
        for _ in range(3):
            forget_names(deliverer)
            told = await send(deliverer, f"{NAME}:{port_of(sink)}/")
            assert told == Failed(Fault.ADDRESS_REFUSED)
        assert sink.connections == 1


async def test_no_proxy_of_the_environment_sees_a_name_or_an_address(
    deliverer: Deliverer, lie: Lie, public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving(Receiver(ONCE)) as sink, receiving(Receiver()) as proxy:
        for scheme in ("http", "https", "all", "ftp"):
            for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
                monkeypatch.setenv(name, proxy.url)
        lie([PUBLIC])
        assert await send(deliverer, f"{NAME}:{port_of(sink)}/") == Delivered(200)
        lie(["169.254.169.254"])
        forget_names(deliverer)
        for scheme in ("http", "https"):
            told = await send(deliverer, f"{scheme}://rebinding.example:{port_of(sink)}/")
            assert told == Failed(Fault.ADDRESS_REFUSED)
        assert (sink.connections, proxy.connections) == (1, 0)


async def test_a_redirect_to_any_forbidden_address_is_not_followed(
    deliverer: Deliverer, lie: Lie, public: None
) -> None:
    lie([PUBLIC])
    async with receiving(Receiver()) as door:
        places = (*ELSEWHERE, *(f"https://{host}/" for host in forbidden_addresses.hosts()))
        for place in (place for place in places if place.isascii()):
            manner = Manner(locations=(place.format(door=door.url),))
            async with receiving(Receiver(manner)) as sink:
                told = await send(deliverer, f"{NAME}:{port_of(sink)}/")
                assert isinstance(told, Failed)
                assert told.fault is Fault.REDIRECT, place
                assert len(sink.requests) == 1
        assert door.connections == 0


async def test_of_mixed_answers_only_the_public_one_is_called(
    deliverer: Deliverer, lie: Lie, public: None
) -> None:
    async with receiving(Receiver(ONCE)) as sink:
        port = port_of(sink)
        lured = Receiver(ONCE)
        async with receiving(lured, port, LURED):
            for answers in ([LURED, PUBLIC], ["169.254.169.254", PUBLIC], [PUBLIC, LURED]):
                lie(answers)
                forget_names(deliverer)
                assert await send(deliverer, f"{NAME}:{port}/") == Delivered(200), answers
            lie([LURED, "fd00::1", "169.254.169.254"])
            forget_names(deliverer)
            assert await send(deliverer, f"{NAME}:{port}/") == Failed(Fault.ADDRESS_REFUSED)
        assert (sink.connections, lured.connections) == (3, 0)
