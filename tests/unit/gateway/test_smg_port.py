"""The SMGs' port as the configuration sees it: what is told where there is no port."""

import pytest

from adapters.session import SessionPolicy
from gateway import smg_port
from gateway.smg_port import SmgPort
from sms import config
from tests.support.sgip import SETTINGS
from tests.support.smpp import FakeSink

VENDOR = config.Channel(1, "vendor-a", "smpp", {})
NO_FD = 1 << 30  # a descriptor that is never opened here


def unicom(number: int, **settings: object) -> config.Channel:
    return config.Channel(number, f"unicom-{number}", "sgip", {**SETTINGS, **settings})


def a_port(*fds: int, warns: bool = True) -> SmgPort:
    return SmgPort(fds, FakeSink(), SessionPolicy(), warns=warns)


@pytest.fixture
def warned(monkeypatch):
    """The warnings that were logged, oldest first: (event, channels)."""
    lines: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        smg_port.log, "warning", lambda event, channels: lines.append((event, channels))
    )
    return lines


@pytest.mark.parametrize("fds", [(), (NO_FD,)], ids=["no port", "not open yet"])
def test_every_sgip_channel_has_a_count_in_every_case(fds):
    listed = unicom(8, smg_allow=["203.0.113.7"])
    assert a_port(*fds).sessions([VENDOR, unicom(7), listed]) == {7: 0, 8: 0}


def test_the_door_knows_better_once_it_has_channels(monkeypatch):
    port = a_port(NO_FD)
    monkeypatch.setattr(port, "_open", lambda _: None)
    monkeypatch.setattr(port._door, "sessions", lambda: {8: 2})
    assert port.sessions([unicom(7), unicom(8)]) == {7: 0, 8: 2}


def test_a_missing_port_is_told_once_for_each_change_of_the_channels(warned):
    port = a_port()
    port.set_channels([VENDOR])
    assert warned == []
    for _ in range(3):
        port.set_channels([VENDOR, unicom(7)])
    [(event, channels)] = warned
    assert "set SMSGW_SMG_PORT" in event
    assert channels == ["unicom-7"]
    port.set_channels([unicom(8), unicom(7)])
    port.set_channels([unicom(7), unicom(8)])
    assert len(warned) == 2
    assert warned[1][1] == ["unicom-7", "unicom-8"]
    port.set_channels([VENDOR])
    port.set_channels([unicom(7)])
    assert len(warned) == 3


def test_a_node_with_a_port_and_one_that_needs_none_say_nothing(warned, monkeypatch):
    quiet = a_port(warns=False)
    quiet.set_channels([unicom(7)])
    port = a_port(NO_FD)
    monkeypatch.setattr(port, "_open", lambda _: None)
    port.set_channels([unicom(7)])
    assert warned == []
