import pytest

from adapters.cmpp.report import parse_report


@pytest.mark.parametrize("width", [21, 32])
def test_the_number_takes_what_the_content_leaves_for_it(width):
    """SMSC_sequence follows without a NUL, and reads like digits."""
    number = "8" * width
    content = bytes(8) + b"DELIVRD" + b"2611212028" * 2 + number.encode() + b"1234"
    assert len(content) == 39 + width
    assert parse_report(content) == ("00" * 8, "DELIVRD", number)


@pytest.mark.parametrize("stat", ["DELIVRD", "MA:0051", "DBBLACK", "-1012", "EXPIRED"])
def test_words_and_codes_of_any_make_come_as_they_are(stat):
    content = bytes(8) + stat.encode().ljust(7, b"\0") + bytes(45)
    assert parse_report(content) == ("00" * 8, stat, "")


def test_a_word_padded_with_blanks_is_the_word():
    parsed = parse_report(bytes(8) + b"KEYWOR " + bytes(45))
    assert parsed is not None
    assert parsed[1] == "KEYWOR"
