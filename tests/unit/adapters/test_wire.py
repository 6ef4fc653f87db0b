from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.wire import Framer, build_cstring, build_tlvs, parse_cstring, parse_tlvs
from sms.errors import RemoteProtocolError
from telemetry.logs import mask


def frame(body: bytes) -> bytes:
    return (len(body) + 4).to_bytes(4, "big") + body


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 2000), max_size=8))
def test_frames_come_out_as_they_went_in_however_cut(bodies, cuts):
    stream = b"".join(frame(body) for body in bodies)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut <= len(stream))})
    framer = Framer(4, 1000)
    found = [whole for start, stop in pairwise(places) for whole in framer.feed(stream[start:stop])]
    assert found == [frame(body) for body in bodies]


@pytest.mark.parametrize("length", [0, 15, 65, 0xFFFFFFFF])
def test_an_impossible_length_keeps_what_came_before_and_ends_the_stream(length):
    framer = Framer(16, 64)
    good = frame(b"x" * 12)
    assert framer.feed(good + length.to_bytes(4, "big") + b"y" * 80) == [good]
    assert isinstance(framer.error, RemoteProtocolError)
    assert framer.feed(good) == []


@given(st.integers(65, 0xFFFFFFFF))
@example(int.from_bytes(b"HTTP", "big"))
@example(0x10000000)
def test_no_log_takes_an_impossible_length_for_a_phone_number(length):
    framer = Framer(16, 64)
    framer.feed(length.to_bytes(4, "big"))
    assert mask(str(framer.error)) == str(framer.error)


def test_the_first_word_of_an_http_server_is_named():
    framer = Framer(16, 64)
    framer.feed(b"HTTP/1.1 400 Bad Request")
    assert str(framer.error) == 'frame length 0x4854_5450 ("HTTP") is impossible'


def test_a_string_without_its_end_is_refused():
    with pytest.raises(RemoteProtocolError):
        parse_cstring(b"abcdef\0", 0, 6)
    assert parse_cstring(b"abcde\0", 0, 6) == (b"abcde", 6)


@pytest.mark.parametrize("value", [b"abcdef", b"a\0b"])
def test_a_string_that_does_not_fit_is_not_built(value):
    with pytest.raises(ValueError, match="at most"):
        build_cstring(value, 6)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=70))))
def test_tlvs_survive_a_round_trip(values):
    assert parse_tlvs(build_tlvs(values), 0) == values


@given(st.binary(max_size=60))
def test_no_octets_break_the_tlv_reader(data):
    for _, value in parse_tlvs(data, 0):
        assert value in data
