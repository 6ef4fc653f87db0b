"""Headers of long texts, and what joining makes of their segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mainland import CODING_GBK, text_of
from sms.concatenation import GAP, join, mark_of, split_header, utf16, whole
from sms.model import Encoding, SegmentMark
from sms.segmentation import Segmentation, payload, segment


@pytest.mark.parametrize(
    ("body", "mark", "rest"),
    [
        ("050003 07 02 01 6869", SegmentMark(7, 2, 1, 8), "6869"),
        ("060804 0102 03 03 6869", SegmentMark(0x102, 3, 3, 16), "6869"),
        ("0b05041582 0000 000307 0201 68", SegmentMark(7, 2, 1, 8), "68"),  # behind a port
        ("050003 07 02 00 68", None, "68"),  # numbers from 1
        ("050003 07 02 03 68", None, "68"),  # the third of two
        ("050003 07 01 01 68", None, "68"),  # one of one is a whole text
        ("050004 07 02 01 68", None, "68"),  # its length is a lie
        ("03 240101 68", None, "68"),  # something else
        ("7f 6869", None, "7f6869"),  # the header would be longer than all there is
        ("00 68", None, "68"),
        ("", None, ""),
    ],
)
def test_a_header_says_which_segment_it_is(body, mark, rest):
    assert split_header(bytes.fromhex(body)) == (mark, bytes.fromhex(rest))


@pytest.mark.parametrize(
    ("reference", "total", "number"),
    [(1, 256, 1), (1, 0xFFFF, 1), (1, 2**32 - 1, 1), (0x10000, 2, 1), (-1, 2, 1)],
)
def test_numbers_wider_than_a_header_make_no_long_text(reference, total, number):
    assert mark_of(reference, total, number, 0) is None
    assert mark_of(1 << 16_000, 2, 1, 0) is None  # it cannot even be printed


@given(st.binary(max_size=40))
def test_no_header_makes_it_fail(body):
    mark, rest = split_header(body)
    assert body.endswith(rest)
    assert mark is None or 1 <= mark.number <= mark.total <= 255


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=600),
    st.randoms(use_true_random=False),
)
def test_what_is_cut_and_read_back_is_the_text(text, random):
    """Every segment through its header, in any order, some of them twice."""
    cut = segment(text, max_segments=255)
    assert isinstance(cut, Segmentation)
    total = len(cut.texts)
    found: dict[int, str] = {}
    order = [*range(total), *range(total)]
    random.shuffle(order)
    for index in order:
        body, has_udh = payload(cut.texts, index, cut.encoding, 7)
        mark, rest = split_header(body) if has_udh else (None, body)
        assert (mark is None) == (total == 1)
        number = 1 if mark is None else mark.number
        if cut.encoding is Encoding.UCS2:
            found.setdefault(number, rest.decode("utf-16-be", "surrogatepass"))
        else:
            found.setdefault(number, cut.texts[index])
    assert join(found, total) == text


@given(st.integers(1, 20), st.data())
def test_a_gap_stands_once_for_segments_missing_in_a_row(total, data):
    there = data.draw(st.sets(st.integers(1, total)))
    joined = join({number: f"<{number}>" for number in there}, total)
    runs = sum(1 for n in range(1, total + 1) if n not in there and (n == 1 or n - 1 in there))
    assert joined.count(GAP) == runs
    assert [int(word) for word in joined.replace(GAP, "").replace("<", "").split(">")[:-1]] == (
        sorted(there)
    )


def test_halves_of_a_character_that_a_cut_separated_are_one_again():
    high, low = "\ud83d", "\ude00"
    assert join({1: f"a{high}", 2: f"{low}b"}, 2) == "a😀b"
    assert join({2: f"{low}b"}, 2) == f"{GAP}\ufffdb"
    assert whole(f"{high}\0") == "\ufffd\ufffd"


def test_numbers_that_make_no_long_text_are_ignored():
    assert mark_of(7, 1, 1, 8) is None
    assert mark_of(7, 2, 0, 8) is None
    assert mark_of(0, 255, 255, 8) == SegmentMark(0, 255, 255, 8)


@given(
    st.text(st.characters(codec="gb18030", exclude_characters="\0"), min_size=1, max_size=200),
    st.integers(1, 9),
    st.sets(st.integers(1, 30), max_size=2),
)
def test_a_gb18030_text_that_was_cut_by_octets_is_whole_again(text, size, lost):
    """Wherever the cuts fall, and as far as segments stand side by side."""
    octets = text.encode("gb18030")
    cuts = [octets[start : start + size] for start in range(0, len(octets), size)]
    found = {n: text_of(CODING_GBK, cut) for n, cut in enumerate(cuts, 1)}
    assert join(found, len(cuts)) == text
    for n in lost:
        found.pop(n, None)
    assert GAP in join(found, len(cuts)) or len(found) == len(cuts)


def test_an_opt_out_that_was_cut_inside_a_character_is_one():
    octets = "退订".encode("gb18030")
    found = {1: text_of(CODING_GBK, octets[:3]), 2: text_of(CODING_GBK, octets[3:])}
    assert join(found, 2) == "退订"
    assert join({1: found[1]}, 2) == f"退\ufffd{GAP}"


@pytest.mark.parametrize("character", ["💰", "😀"])  # the first one's lower half could be an octet
def test_half_a_pair_is_never_taken_for_an_octet(character):
    octets = f"ab{character}cd退订".encode("utf-16-be")
    found = {1: utf16(octets[:6]), 2: utf16(octets[6:10]), 3: utf16(octets[10:])}
    assert join(found, 3) == f"ab{character}cd退订"
    del found[1]
    assert join(found, 3) == f"{GAP}\ufffdcd退订"
