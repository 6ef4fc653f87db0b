"""Moments, numbers and texts as the networks of the mainland write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mainland import absolute_time, content_of, e164, national, stamp_of, text_of
from sms import gsm
from sms.model import Encoding
from tests.support.smpp import some_submits

UNIX = 1795264350.0  # 21 November 2026, 20:32:30 in UTC+8


def test_a_stamp_is_a_number_of_ten_digits_in_utc_8():
    assert stamp_of(UNIX) == 1121203230
    assert stamp_of(1767196800.0) == 101000000  # 1 January, the leading zero is no digit
    assert stamp_of(1798732799.0) == 1231235959


def test_an_absolute_time_is_rounded_up_to_minutes():
    assert absolute_time(UNIX) == "261121203300032+"
    assert absolute_time(UNIX + 30) == "261121203300032+"
    assert absolute_time(UNIX + 31) == "261121203400032+"


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("13800138000", "8613800138000"),
        ("8613800138000", "8613800138000"),
        ("+8613800138000", "8613800138000"),
        ("008613800138000", "8613800138000"),
        ("85291234567", "85291234567"),  # eleven digits, not of the mainland
        ("+13475550123", "13475550123"),  # New York, not 134 7555 0123
        ("0013475550123", "13475550123"),
        ("10690001", "10690001"),
        ("", ""),
    ],
)
def test_a_number_gets_its_country(written, digits):
    assert e164(written) == digits


def test_a_mainland_number_goes_without_its_country():
    assert national("8613800138000") == "13800138000"
    assert national("85291234567") == "85291234567"


ASCII = "".join(sorted(character for character in gsm.ALPHABET if character.isascii()))


def gsm7(text: str):
    [submit] = some_submits(1)
    submit.encoding, submit.payload = Encoding.GSM7, gsm.encode(text)
    return submit


@given(st.text(ASCII, max_size=140))
def test_every_ascii_character_of_the_alphabet_goes_out_as_itself(text):
    assert content_of(gsm7(text)) == (0, text.encode("ascii"))


@given(st.text("".join(sorted(gsm.ALPHABET)), max_size=70))
def test_what_ascii_lacks_goes_out_as_ucs2(text):
    coding, content = content_of(gsm7(text))
    assert content.decode("ascii" if coding == 0 else "utf-16-be") == text
    assert (coding == 0) == text.isascii()


def test_the_header_stays_in_front():
    submit = gsm7("a@")
    submit.payload, submit.has_udh = b"\x05\x00\x03\x01\x02\x01" + submit.payload, True
    assert content_of(submit) == (0, b"\x05\x00\x03\x01\x02\x01a@")


@pytest.mark.parametrize("text", ["a" * 141, "€" * 71])
def test_a_segment_holds_140_octets(text):
    with pytest.raises(ValueError, match="140"):
        content_of(gsm7(text))


def test_a_carrier_may_take_more():
    assert content_of(gsm7("a" * 160), 160) == (0, b"a" * 160)


@given(st.integers(0, 255), st.binary(max_size=140))
def test_whatever_a_phone_sent_is_some_text(coding, content):
    assert isinstance(text_of(coding, content), str)
