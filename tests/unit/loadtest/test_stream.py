"""What becomes of bytes on one way through the fault proxy, on simulated time."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from loadtest.linkfault import LinkFault, Way, change
from loadtest.stream import HELD_MAXIMUM, Stream

PIECES = st.lists(st.binary(min_size=1, max_size=50), max_size=20)


def stream(**fault):
    return Stream(Way(**fault), Random(1))


def test_plain_bytes_pass_at_once():
    plain = stream()
    plain.feed(b"abc", 5.0)
    assert (plain.next_due, plain.ready(5.0), plain.next_due) == (5.0, b"abc", None)


def test_a_delay_holds_each_piece_so_long():
    slow = stream(delay_ms=200)
    slow.feed(b"a", 1.0)
    slow.feed(b"b", 1.1)
    assert slow.ready(1.19) == b""
    assert slow.ready(1.21) == b"a"
    assert slow.next_due == 1.1 + 0.2
    assert slow.ready(2.0) == b"b"


def test_a_throttle_lets_so_many_bytes_a_second_through():
    slow = stream(bytes_per_s=1000)
    slow.feed(bytes(500), 0.0)
    slow.feed(bytes(500), 0.0)
    assert len(slow.ready(0.501)) == 500
    assert len(slow.ready(1.001)) == 500


def test_what_is_stalled_passes_whole_when_the_stall_ends():
    stalled = stream(stall=True)
    stalled.feed(b"first", 0.0)
    stalled.feed(b"second", 1.0)
    assert (stalled.next_due, stalled.ready(100.0), stalled.is_held) == (None, b"", True)
    stalled.change(Way(), 200.0)
    assert stalled.ready(200.0) == b"firstsecond"
    assert not stalled.has_hole


def test_a_stall_holds_only_so_much():
    stalled = stream(stall=True)
    stalled.feed(bytes(HELD_MAXIMUM - 1), 0.0)
    assert not stalled.is_full
    stalled.feed(b"x", 0.0)
    assert stalled.is_full


def test_what_is_dropped_is_gone_and_leaves_a_hole():
    lossy = stream(drop=True)
    lossy.feed(b"gone", 0.0)
    lossy.change(Way(), 1.0)
    lossy.feed(b"after", 1.0)
    assert lossy.ready(1.0) == b"after"
    assert (lossy.has_hole, lossy.dropped) == (True, 4)


def test_a_cut_comes_behind_exactly_so_many_bytes_since_it_was_set():
    cut = stream()
    cut.feed(b"before", 0.0)
    cut.ready(0.0)
    cut.change(Way(cut_after=5), 1.0)
    cut.feed(b"abc", 1.0)
    assert (cut.ready(1.0), cut.is_over) == (b"abc", False)
    cut.feed(b"defgh", 1.0)
    assert not cut.is_over
    assert (cut.ready(1.0), cut.is_over) == (b"de", True)
    cut.feed(b"more", 1.0)
    assert cut.ready(2.0) == b""


@given(pieces=PIECES, at=st.integers(0, 60))
def test_one_byte_at_an_offset_is_changed_however_the_bytes_arrive(pieces, at):
    whole = b"".join(pieces)
    bad = stream(garble_at=at)
    for piece in pieces:
        bad.feed(piece, 0.0)
    got = bad.ready(0.0)
    changed = [place for place in range(len(whole)) if whole[place] != got[place]]
    assert changed == ([at] if at < len(whole) else [])
    assert len(got) == len(whole)


def test_a_share_of_the_bytes_is_changed_and_the_same_ones_by_the_same_seed():
    data = bytes(100_000)
    found = []
    for _ in range(2):
        bad = stream(garble_share=0.01)
        for start in range(0, len(data), 777):
            bad.feed(data[start : start + 777], 0.0)
        found.append(bad.ready(0.0))
    assert found[0] == found[1]
    changed = sum(map(bool, found[0]))
    assert changed == bad.garbled
    assert 800 < changed < 1200
    every = stream(garble_share=1.0)
    every.feed(b"abc", 0.0)
    assert all(a != b for a, b in zip(every.ready(0.0), b"abc", strict=True))


@given(
    pieces=PIECES,
    delay=st.integers(0, 100),
    jitter=st.integers(0, 100),
    rate=st.sampled_from([0, 10, 1000]),
    other=st.sampled_from([Way(), Way(delay_ms=5), Way(stall=True), Way(bytes_per_s=7)]),
)
def test_nothing_is_lost_or_reordered_by_waiting(pieces, delay, jitter, rate, other):
    slow = stream(delay_ms=delay, jitter_ms=jitter, bytes_per_s=rate)
    got = b""
    now = 0.0
    for place, piece in enumerate(pieces):
        now += 0.01
        slow.feed(piece, now)
        got += slow.ready(now)
        if place == len(pieces) // 2:
            slow.change(other, now)
    slow.change(Way(), now)
    assert got + slow.ready(now) == b"".join(pieces)


def test_a_change_names_the_ways_and_keeps_what_it_leaves_out():
    now = change(LinkFault(), {"door": "silent", "both": {"delay_ms": 5}, "up": {"drop": True}})
    assert now == LinkFault("silent", Way(delay_ms=5, drop=True), Way(delay_ms=5))
    assert change(now, {"door": "open"}) == LinkFault("open", now.up, now.down)


def test_a_change_with_faults_names_each():
    wrong = {
        "door": "ajar",
        "left": {},
        "up": {"delay_ms": -1, "colour": 1},
        "down": {"garble_share": 2},
        "both": 1,
    }
    found = change(LinkFault(), wrong)
    assert isinstance(found, list)
    assert [pointer for pointer, _ in found] == [
        *("/door", "/left", "/up/delay_ms", "/up/colour", "/down/garble_share", "/both"),
    ]
    assert change(LinkFault(), []) == [("", "give a JSON object")]
    assert change(LinkFault(), {"up": {"drop": 1, "cut_after": True}}) == [
        ("/up/drop", "give true or false"),
        ("/up/cut_after", "give a whole number of bytes"),
    ]
