"""Whatever a carrier sends: no exception, no hang, no memory, no submit lost or told twice."""

import contextlib
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.session import Answered, Ended
from adapters.smpp import pdu
from loadtest.smpp_server import ServerSession
from sms.errors import RemoteProtocolError
from sms.model import Submit
from sms.outcomes import Outcome, Uncertain
from tests.support.fuzz import feed, fuzz, seeds
from tests.support.smpp import bound_session, report, some_submits, submit_answer

FRAMES = [
    bytes.fromhex(vector["hex"])
    for vector in json.loads(
        (Path(__file__).parents[1] / "vectors" / "smpp.json").read_text("utf-8")
    )
]
SUBMITS = some_submits(8)
# what a session with open submits gets, too: their answers, and reports
LIVE = [*FRAMES, *(submit_answer(n, f"id{n}") for n in range(2, 10)), report(7, "id3")]
SEQUENCES = st.integers(0, 12)
PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(FRAMES),
    st.builds(submit_answer, SEQUENCES, st.text("abc123", max_size=8)),
    st.builds(
        submit_answer, SEQUENCES, status=st.sampled_from([4, 8, 0x0B, 0x14, 0x45, 0x58, 0x400])
    ),
    st.builds(report, SEQUENCES, st.text("abc123", min_size=1, max_size=8)),
    st.builds(
        pdu.pack_header,
        st.just(16),
        st.sampled_from([*sorted(pdu.PDUS), 0x21, 0x7777]),
        st.sampled_from([0, 3, 8]),
        SEQUENCES,
    ),
)


def mangled(draw, piece):
    """One octet of a frame changed, now and then."""
    if piece and draw(st.booleans()):
        place = draw(st.integers(0, len(piece) - 1))
        piece = piece[:place] + bytes((draw(st.integers(0, 255)),)) + piece[place + 1 :]
    return piece


@fuzz
@given(seed=seeds)
def test_fuzz_a_session_survives_any_bytes(seed):
    def make():
        session = bound_session(window=8)
        session.submit(SUBMITS, 1.0)

        def read(data):
            told = session.receive(data, 1.1) + session.lost("channel.link_lost")
            assert not session.faults
            assert not session.faults
            assert sum(len(event.results) for event in told if isinstance(event, Answered)) == 8

        return read

    feed(seed, LIVE, make)


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
    session = bound_session(window=8)
    submits = some_submits(8)
    session.submit(submits, 1.0)
    now = 1.0
    first: dict[int, str] = {}
    results: list[tuple[Submit, Outcome]] = []
    for piece in data.draw(st.lists(PIECES, max_size=12)):
        now += data.draw(st.sampled_from([0.0, 1.0, 30.0]))
        events = session.tick(now) + session.receive(mangled(data.draw, piece), now)
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


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=12), st.data())
def test_the_server_side_survives_the_same(pieces, data):
    session = ServerSession()
    session.receive(pdu.build_pdu(pdu.BIND_TRANSCEIVER, 1, {"system_id": "x"}), 0.0)
    session.may_submit = True
    for piece in pieces:
        session.receive(mangled(data.draw, piece), 1.0)
        session.to_send()


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
