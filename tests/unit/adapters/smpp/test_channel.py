"""What of the shell needs no socket: a carrier that does not read."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from adapters.session import SessionPolicy
from adapters.sgip.pdu import BIND_RESP
from adapters.shell import Link
from adapters.smpp import pdu
from adapters.smpp.channel import SmppChannel
from adapters.smpp.codes import login_refused
from adapters.smpp.session import Session
from adapters.smpp.settings import parse
from sms import config
from sms.errors import ConfigError
from sms.outcomes import Rejected, Uncertain
from tests.support import sgip
from tests.support.smpp import SETTINGS, FakeSink, some_submits


class FakeTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written = b""
        self.unread = 0
        self.ended = ""
        self.reads = True

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True

    def get_extra_info(self, name, default=None):
        return self

    def setsockopt(self, *_):
        pass

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return self.unread

    def is_closing(self):
        return bool(self.ended)

    def write(self, data):
        self.written += data

    def close(self):
        self.ended = "closed"

    def abort(self):
        self.ended = "aborted"


def a_channel(**settings):
    sink = FakeSink()
    channel = SmppChannel(
        config.Channel(7, "x", "smpp", {**SETTINGS, **settings}, window=4), sink, SessionPolicy()
    )
    return channel, sink


def bound(channel):
    """A link over a fake transport, logged in."""
    link = Link(channel, Session(7, parse(SETTINGS), SessionPolicy(), 4))
    transport = FakeTransport()
    link.connection_made(transport)
    link.data_received(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, 1, {"system_id": "S"}))
    transport.written = b""
    return link, transport


async def test_the_log_says_by_which_protocol_a_channel_has_a_session_or_none():
    with capture_logs() as lines:
        channel, _ = a_channel()
        bound(channel)
        channel.last_reason = "the link broke"
        channel._tell(0.0)
    told = [(line["event"], line["channel"], line["protocol"]) for line in lines]
    assert told == [("session bound", "x", "smpp"), ("channel cannot hold a session", "x", "smpp")]


def test_wrong_settings_make_no_channel():
    with pytest.raises(ConfigError, match="/port"):
        a_channel(port=0)


@pytest.mark.parametrize(("how", "is_whole"), [("udh", 0), ("sar", 0), ("payload", 1)])
def test_only_by_payload_long_texts_leave_whole(how, is_whole):
    assert a_channel(long_messages=how)[0].sends_whole == is_whole


async def test_a_carrier_that_does_not_read_gets_no_more_until_it_reads():
    channel, sink = a_channel()
    link, transport = bound(channel)
    assert channel.free() == 4
    link.pause_writing()
    assert channel.free() == 0
    assert not transport.reads  # its questions would only pile up unanswered
    submits = some_submits(2)
    assert channel.submit(submits) == submits
    assert transport.written == b""
    openings = sink.openings
    link.resume_writing()
    assert sink.openings == openings + 1
    assert transport.reads
    assert channel.submit(submits) == []
    assert transport.written != b""


async def test_a_burst_is_one_write_and_a_burst_of_answers_too():
    channel, _ = a_channel()
    _, transport = bound(channel)
    writes: list[bytes] = []
    transport.write = writes.append
    channel.submit(some_submits(4))
    assert len(writes) == 1


async def test_a_closing_socket_takes_nothing():
    channel, _ = a_channel()
    _, transport = bound(channel)
    transport.ended = "closed by the other end"
    assert channel.free() == 0
    assert len(channel.submit(some_submits(1))) == 1


async def test_garbage_closes_the_session_and_an_unread_rest_is_not_waited_for():
    channel, sink = a_channel()
    link, transport = bound(channel)
    channel.submit(some_submits(2))
    transport.unread = 10
    link.data_received(b"\xff" * 40)
    assert transport.ended == "aborted"
    assert [is_up for is_up, _ in sink.links] == [True, False]
    assert len(sink.results) == 2
    link.connection_lost(None)
    assert len(sink.results) == 2
    assert link.ended.done()


async def test_what_cannot_be_packed_is_told_after_the_call():
    channel, sink = a_channel()
    bound(channel)
    [bad] = some_submits(1)
    bad.number = "9" * 30
    assert channel.submit([bad]) == []
    assert sink.results == []
    await asyncio.sleep(0)
    [(submit, outcome)] = sink.results
    assert submit is bad
    assert isinstance(outcome, Rejected)
    assert channel.free() == 4


class Lines:
    """A logger that keeps its lines."""

    def __init__(self):
        self.lines = []

    def warning(self, event, **fields):
        self.lines.append((event, fields))


def test_a_refused_login_is_told_in_words_with_a_remedy():
    assert "0x0000000d" in login_refused(0x0D)
    assert "check system_id and password" in login_refused(0x0D)
    assert "ask the carrier" in login_refused(0x0499)
    assert "generic_nack" in login_refused(3, is_nack=True)


async def test_why_down_is_the_newest_reason_and_nothing_while_a_session_stands():
    channel, _ = a_channel()
    assert channel.why_down() == "still connecting"
    link = Link(channel, Session(7, parse(SETTINGS), SessionPolicy(), 4))
    link.connection_made(FakeTransport())
    link.data_received(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, 1, status=0x0E))
    assert "0x0000000e" in channel.why_down()
    assert "the password is wrong" in channel.why_down()
    bound(channel)
    assert channel.why_down() == ""


REMEDY = "check `host`, `port` and `protocol`"


def dialled(channel, session=None):
    """A link over a fake transport whose login is not answered yet."""
    link = Link(channel, session or Session(7, parse(SETTINGS), SessionPolicy(), 4))
    link.connection_made(FakeTransport())
    return link


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request", 'frame length 0x4854_5450 ("HTTP") is impossible'),
        (b"\0\0\0\x0c" + bytes(8), "frame length 12 is impossible"),  # CMPP, SMGP
    ],
)
async def test_a_peer_of_another_protocol_is_told_with_a_remedy(said, why):
    channel, _ = a_channel()
    dialled(channel).data_received(said)
    assert channel.why_down() == f"{why}, {REMEDY}"


async def test_a_login_without_an_answer_is_told_with_a_remedy():
    channel, _ = a_channel()
    link = dialled(channel)
    link.tick(time.monotonic() + 11.0, 10.0)
    assert channel.why_down() == f"the login was not answered, {REMEDY}"


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")])
async def test_a_link_closed_before_an_answer_is_told_with_a_remedy(error):
    channel, _ = a_channel()
    dialled(channel).connection_lost(error)
    assert channel.why_down().startswith(f"link lost: {error or 'closed by the carrier'} before")
    assert "lets our address in" in channel.why_down()
    assert channel.why_down().endswith(REMEDY)


async def test_who_took_or_refused_our_login_is_no_stranger():
    channel, _ = a_channel()
    link, _ = bound(channel)
    link.data_received(b"\xff" * 40)
    assert channel.why_down() == "frame length 0xffff_ffff is impossible"
    link, _ = bound(channel)
    link.connection_lost(None)
    assert channel.why_down() == "link lost: closed by the carrier"
    dialled(channel).data_received(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, 1, status=0x0E))
    assert REMEDY not in channel.why_down()
    dialled(channel).close("stopped")
    assert channel.why_down() == "stopped"


async def test_a_login_over_sgip_that_was_taken_and_closed_at_once_was_answered():
    channel, _ = a_channel()
    session = sgip.a_session(is_doubtful=True)
    link = dialled(channel, session)
    [bind] = sgip.frames(link._transport.written)
    link.data_received(sgip.response(BIND_RESP, bind.sequence))
    link.connection_lost(None)
    assert channel.why_down() == "link lost: closed by the carrier"


def test_a_reason_is_logged_when_it_is_new_and_then_once_a_minute(monkeypatch):
    kept = Lines()
    monkeypatch.setattr("adapters.shell.log", kept)
    channel, _ = a_channel()
    channel.last_reason = "bind refused 0x0000000d"
    for now in (0.0, 1.0, 59.0, 61.0, 100.0):
        channel._tell(now)
    channel.last_reason = "link lost"
    channel._tell(101.0)
    assert [fields["reason"] for _, fields in kept.lines] == [
        "bind refused 0x0000000d",
        "bind refused 0x0000000d",
        "link lost",
    ]
    assert kept.lines[0][1]["channel"] == "x"


async def test_answers_to_several_bursts_of_reports_leave_in_one_write():
    channel, _ = a_channel()
    link, transport = bound(channel)
    writes: list[bytes] = []
    transport.write = writes.append
    for sequence in (7, 8, 9):
        channel.answer([(link.session, sequence, pdu.DELIVER_SM)], accepted=True)
    await asyncio.sleep(0)
    (written,) = writes
    frames = [written[start : start + 17] for start in range(0, len(written), 17)]
    assert [pdu.parse_header(frame)[1:] for frame in frames] == [
        (pdu.DELIVER_SM_RESP, 0, sequence) for sequence in (7, 8, 9)
    ]
    channel.answer([(link.session, 10, pdu.DELIVER_SM)], accepted=False)
    await asyncio.sleep(0)
    assert len(writes) == 2


async def test_without_a_lease_what_a_socket_did_not_take_is_dropped_and_uncertain():
    """It would go out when the carrier reads again, and by then another process may own it."""
    channel, sink = a_channel()
    _, full = bound(channel)
    _, free = bound(channel)
    full.unread = 10
    channel.submit(some_submits(2))
    channel.cut_unwritten()
    assert (full.ended, free.ended) == ("aborted", "")
    assert channel.is_up()
    assert all(isinstance(outcome, Uncertain) for _, outcome in sink.results)


async def test_without_a_lease_nobody_logs_in():
    channel, sink = a_channel()
    sink.lease = False
    channel.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert channel._dialling == set()
    assert "lease" in channel.why_down()
    await channel.stop(0.0)
