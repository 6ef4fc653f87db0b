"""The default alphabet against the recorded table of two independent implementations."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms import gsm

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "gsm0338.json").read_text("utf-8"))
BASIC = {int(code, 16): char for code, char in VECTORS["basic"].items()}
EXTENSION = {int(code, 16): char for code, char in VECTORS["extension"].items()}
ALPHABET = "".join([*BASIC.values(), *EXTENSION.values()])

gsm_text = st.text(st.sampled_from(ALPHABET), max_size=400)


def slow_encode(text):
    data = bytearray()
    for char in text:
        for code, basic in BASIC.items():
            if basic == char:
                data.append(code)
                break
        else:
            (code,) = [code for code, extended in EXTENSION.items() if extended == char]
            data += bytes((0x1B, code))
    return bytes(data)


def test_the_table_is_whole():
    assert len(BASIC) == 127  # 128 without the escape
    assert len(EXTENSION) == 10


@pytest.mark.parametrize("code", sorted(BASIC))
def test_each_basic_character_is_one_septet(code):
    assert gsm.encode(BASIC[code]) == bytes((code,))
    assert gsm.decode(bytes((code,))) == BASIC[code]
    assert gsm.septets(BASIC[code]) == 1


@pytest.mark.parametrize("code", sorted(EXTENSION))
def test_each_extension_character_is_an_escape_and_a_septet(code):
    assert gsm.encode(EXTENSION[code]) == bytes((0x1B, code))
    assert gsm.decode(bytes((0x1B, code))) == EXTENSION[code]
    assert gsm.septets(EXTENSION[code]) == 2


@given(gsm_text)
def test_encoding_is_the_slow_one_and_decodes_back(text):
    data = gsm.encode(text)
    assert data == slow_encode(text)
    assert gsm.decode(data) == text
    assert gsm.septets(text) == len(data)
    assert gsm.has_extended(text) == (len(data) > len(text))
    assert gsm.is_gsm7(text)


@given(st.text(max_size=50))
def test_what_is_outside_is_named_once_and_never_encoded(text):
    strangers = [char for char in text if char not in ALPHABET]
    assert gsm.is_gsm7(text) == (not strangers)
    assert gsm.outside(text) == tuple(dict.fromkeys(strangers))
    if strangers:
        with pytest.raises(ValueError, match="ascii"):
            gsm.encode(text)


@pytest.mark.parametrize("char", ["`", "\t", "ç", "\x1b", "\x7f", "“", "中", "\x00"])
def test_characters_that_look_plain_but_are_not(char):
    assert not gsm.is_gsm7(char)
    with pytest.raises(ValueError, match="ascii"):
        gsm.encode(char)


@given(st.binary(max_size=200))
def test_decoding_never_fails(data):
    assert len(gsm.decode(data)) <= len(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1bA", "A"),  # no extension there: the basic character
        (b"a\x1b", "a "),
        (b"\x1b\x1be", " e"),
        (b"\x1b\xffz", "\ufffdz"),
        (b"\x80", "\ufffd"),
        (b"\x1b\n!", "\f!"),
    ],
)
def test_odd_escapes(data, text):
    assert gsm.decode(data) == text
