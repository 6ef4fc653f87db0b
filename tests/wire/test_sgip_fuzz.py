"""Whatever a peer sends: no exception, no hang, no memory, no submit lost or told twice."""

import contextlib
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.session import Answered, Ended
from adapters.sgip import pdu
from adapters.sgip.session import Common
from loadtest.sgip_server import SgipCaller, SgipServer
from sms.errors import RemoteProtocolError
from sms.model import Submit
from sms.outcomes import Outcome, Uncertain
from tests.support.fuzz import feed, fuzz, seeds
from tests.support.sgip import (
    STAMP,
    a_guest,
    bind_asked,
    bound_guest,
    bound_session,
    deliver,
    report,
    response,
)
from tests.support.smpp import some_submits

FRAMES = [
    bytes.fromhex(vector["hex"])
    for vector in json.loads(
        (Path(__file__).parents[1] / "vectors" / "sgip.json").read_text("utf-8")
    )
]
SUBMITS = some_submits(8)
# What our own session numbered its submits with: the login took the first.
SEQUENCES = st.builds(
    lambda stamp, counter: (3010012345, stamp, counter),
    st.sampled_from([STAMP, STAMP + 1, 7]),
    st.integers(0, 12),
)
PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(FRAMES),
    st.builds(response, st.sampled_from([*sorted(pdu.PDUS)]), SEQUENCES, st.integers(0, 35)),
    st.builds(report, SEQUENCES, st.integers(0, 3), st.integers(0, 255)),
    st.builds(deliver, st.binary(max_size=20), st.sampled_from([0, 4, 8, 15, 246]), st.just(1)),
)


@fuzz
@given(seed=seeds)
def test_fuzz_a_session_survives_any_bytes(seed):
    def make():
        session = bound_session(window=8)
        session.submit(SUBMITS, 1.0)

        def read(data):
            told = session.receive(data, 1.1) + session.lost("channel.link_lost")
            assert not session.faults
            assert sum(len(event.results) for event in told if isinstance(event, Answered)) == 8

        return read

    feed(seed, FRAMES, make)


@fuzz
@given(seed=seeds, is_bound=st.booleans())
def test_fuzz_our_listener_survives_any_bytes(seed, is_bound):
    def make():
        guest = bound_guest() if is_bound else a_guest()

        def read(data):
            guest.receive(data, 1.1)
            assert not guest.faults
            guest.to_send()

        return read

    feed(seed, FRAMES, make)


@fuzz
@given(seed=seeds)
def test_fuzz_the_table_parser_says_no_in_its_own_words(seed):
    def read(data):
        with contextlib.suppress(RemoteProtocolError):
            pdu.parse_pdu(data.ljust(pdu.HEADER_SIZE, b"\0"))

    feed(seed, FRAMES, lambda: read)


@settings(max_examples=200)
@given(st.data())
def test_every_submit_gets_its_outcome_once_whatever_the_carrier_sends(data):
    """Over both connections of the channel, in any order."""
    common = Common()
    session, guest = bound_session(window=8, common=common), bound_guest(common)
    submits = some_submits(8)
    session.submit(submits, 1.0)
    now = 1.0
    first: dict[int, str] = {}
    results: list[tuple[Submit, Outcome]] = []
    for piece in data.draw(st.lists(PIECES, max_size=12)):
        now += data.draw(st.sampled_from([0.0, 1.0, 30.0]))
        side = data.draw(st.sampled_from([session, guest]))
        events = session.tick(now) + side.receive(piece, now)
        results += [
            pair for event in events if isinstance(event, Answered) for pair in event.results
        ]
        session.to_send()
        if side is session and any(isinstance(event, Ended) for event in events):
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


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=12))
def test_the_carriers_sides_survive_the_same(pieces):
    server, caller = SgipServer(), SgipCaller("fakename", "1234")
    server.receive(bind_asked(login_type=1), 0.0)
    server.may_submit = True
    caller.connected()
    for piece in pieces:
        for side in (server, caller):
            side.receive(piece, 1.0)
            side.to_send()


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
