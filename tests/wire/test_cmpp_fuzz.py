"""Whatever a carrier sends: no exception, no hang, no memory, no submit lost or told twice."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.cmpp import pdu
from adapters.cmpp.pdu import Layout
from adapters.session import Answered, Ended
from loadtest.cmpp_server import CmppSide
from sms.errors import RemoteProtocolError
from sms.model import Submit
from sms.outcomes import Outcome, Uncertain
from tests.support.cmpp import bound_session, header, report, submit_answer
from tests.support.fuzz import feed, fuzz, seeds
from tests.support.smpp import some_submits

FRAMES = [
    bytes.fromhex(vector["hex"])
    for vector in json.loads(
        (Path(__file__).parents[1] / "vectors" / "cmpp.json").read_text("utf-8")
    )
]
SUBMITS = some_submits(8)
# what a session with open submits gets, too: their answers, and reports
LIVE = {
    protocol: [
        *FRAMES,
        *(submit_answer(number, number, layout=layout) for number in range(2, 10)),
        report(7, 3, layout=layout),
    ]
    for protocol, layout in (("cmpp2", Layout.V2), ("cmpp3", Layout.V3))
}
SEQUENCES = st.integers(0, 12)
PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(FRAMES),
    st.builds(submit_answer, SEQUENCES, st.integers(0, 2**64 - 1)),
    st.builds(submit_answer, SEQUENCES, result=st.integers(0, 20)),
    st.builds(report, SEQUENCES, st.integers(0, 2**64 - 1)),
    st.builds(header, st.sampled_from([*sorted(pdu.PDUS[Layout.V2]), 6, 9, 0x7777]), SEQUENCES),
)


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3"])
@fuzz
@given(seed=seeds)
def test_fuzz_a_session_survives_any_bytes(protocol, seed):
    def make():
        session = bound_session(protocol, window=8)
        session.submit(SUBMITS, 1.0)

        def read(data):
            told = session.receive(data, 1.1) + session.lost("channel.link_lost")
            assert not session.faults
            assert sum(len(event.results) for event in told if isinstance(event, Answered)) == 8

        return read

    feed(seed, LIVE[protocol], make)


@pytest.mark.parametrize("layout", list(Layout))
@fuzz
@given(seed=seeds)
def test_fuzz_the_table_parser_says_no_in_its_own_words(layout, seed):
    def read(data):
        with contextlib.suppress(RemoteProtocolError):
            pdu.parse_pdu(data.ljust(pdu.HEADER_SIZE, b"\0"), layout)

    feed(seed, FRAMES, lambda: read)


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3"])
@fuzz
@given(seed=seeds)
def test_fuzz_the_carrier_s_side_survives_the_same(protocol, seed):
    def make():
        server = CmppSide(protocol).session()
        server.system_id, server.may_submit = "900001", True

        def read(data):
            server.receive(data, 1.0)
            server.to_send()

        return read

    feed(seed, FRAMES, make)


@settings(max_examples=200)
@given(st.data())
def test_every_submit_gets_its_outcome_once_whatever_the_carrier_sends(data):
    session = bound_session(data.draw(st.sampled_from(["cmpp2", "cmpp3"])), window=8)
    submits = some_submits(8)
    session.submit(submits, 1.0)
    now = 1.0
    first: dict[int, str] = {}
    results: list[tuple[Submit, Outcome]] = []
    for piece in data.draw(st.lists(PIECES, max_size=12)):
        now += data.draw(st.sampled_from([0.0, 1.0, 30.0]))
        events = session.tick(now) + session.receive(piece, now)
        results += [
            pair for event in events if isinstance(event, Answered) for pair in event.results
        ]
        session.to_send()
        if any(isinstance(event, Ended) for event in events):
            break
    for event in session.lost("channel.link_lost"):
        assert isinstance(event, Answered)
        results += event.results
    for submit, outcome in results:
        if id(submit) in first:
            # told twice only when the first word was a time-out and the second its late answer
            assert first[id(submit)] == "channel.timeout"
            assert not isinstance(outcome, Uncertain)
        first[id(submit)] = outcome.reason if isinstance(outcome, Uncertain) else "answered"
    assert {id(submit) for submit in submits} == set(first)
    assert session.lost("again") == []
    assert not session.faults


@given(st.lists(st.sampled_from(FRAMES), max_size=6), st.integers(1, 40))
def test_cutting_the_stream_changes_nothing(frames, size):
    stream = b"".join(frames)
    whole, cut = bound_session(), bound_session()
    for session in (whole, cut):
        session.submit(some_submits(8), 1.0)
        session.to_send()
    whole.receive(stream, 1.1)
    for start in range(0, len(stream), size):
        cut.receive(stream[start : start + size], 1.1)
    assert whole.to_send() == cut.to_send()
    assert whole.state is cut.state
    assert list(whole.window.open) == list(cut.window.open)
