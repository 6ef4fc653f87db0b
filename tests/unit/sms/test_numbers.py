"""Numbers: the mainland by the whole allocation table, others by calling code and length."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.model import Carrier
from sms.numbers import BadNumber, Number, parse_number, phone_of

PLAN = json.loads(
    (Path(__file__).parents[2] / "vectors" / "numberplan-cn.json").read_text("utf-8")
)["prefixes"]


def slow_carrier(national):
    for length in (5, 4, 3):
        entry = PLAN.get(national[:length])
        if entry:
            return entry["carrier"].replace("OTHER", "other")
    return None


def test_every_five_digit_prefix_agrees_with_the_plan():
    for head in range(10_000, 20_000):
        national = f"{head}123456"
        parsed = parse_number(national)
        expected = slow_carrier(national)
        if expected is None:
            assert isinstance(parsed, BadNumber), national
        else:
            assert parsed == Number("86" + national, 86, Carrier(expected)), national
            assert parse_number("+86" + national) == parsed


@pytest.mark.parametrize(
    ("text", "carrier"),
    [
        ("13800138000", Carrier.CM),
        ("+8613800138000", Carrier.CM),
        ("18600000000", Carrier.CU),
        ("17000000000", Carrier.CT),
        ("17040000000", Carrier.CU),
        ("19200000000", Carrier.CB),
        ("13490000000", None),
        ("13492000000", Carrier.CT),
        ("14800000000", Carrier.CM),  # IoT with 11 digits: taken
        ("17406000000", Carrier.OTHER),  # satellite: taken
    ],
)
def test_mainland_numbers(text, carrier):
    parsed = parse_number(text)
    assert (parsed.carrier if isinstance(parsed, Number) else None) == carrier


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "as + and digits"),
        ("+", "as + and digits"),
        ("8613800138000", "as + and digits"),
        ("008613800138000", "as + and digits"),
        ("0086 138 0013 8000", "as + and digits"),
        ("138-0013-8000", "as + and digits"),
        ("+86 13800138000", "as + and digits"),
        ("++8613800138000", "as + and digits"),
        ("+8613800138000\n", "as + and digits"),
        ("13800138000\n", "as + and digits"),
        ("１３８００１３８０００", "as + and digits"),
        ("1380013800０", "as + and digits"),
        ("1380013800²", "as + and digits"),
        ("١٣٨٠٠١٣٨٠٠٠", "as + and digits"),
        ("10086", "short number"),
        ("+8610086", "short number"),
        ("110", "short number"),
        ("12306", "short number"),
        ("95588", "short number"),
        ("9612345", "short number"),
        ("1٠٠٨٦", "as + and digits"),
        ("+8610690012345678", "access number"),
        ("+8610655000", "access number"),
        ("4008123456", "hotline"),
        ("+868008101234", "hotline"),
        ("+8616812345", "premium"),
        ("16012345", "premium"),
        ("+8602112345678", "landline"),
        ("+862152345678", "landline"),
        ("+861052345678", "landline"),
        ("+8675552345678", "landline"),
        ("+8616800000000", "no carrier"),
        ("+86138001380001", "mobile number of the mainland"),
        ("+86", "mobile number of the mainland"),
        ("+861380013800", "mobile number of the mainland"),
        ("12345678901", "mobile number of the mainland"),
        ("95588123456", "landline"),
        ("15400000000", "no carrier"),
        ("+8614400000000", "no carrier"),
        ("1440000000000", "machine"),
        ("+861440000000000", "machine"),
        ("+12025550", "has 11 digits"),
        ("+120255501234", "has 11 digits"),
        ("+442", "7 to 15"),
        ("+4420794609581234", "7 to 15"),
        ("+2101234567", "no country"),
        ("+0123456789", "no country"),
        ("+80012345678", "services"),
        ("+97912345678", "services"),
    ],
)
def test_refused_numbers_say_why(text, says):
    parsed = parse_number(text)
    assert isinstance(parsed, BadNumber)
    assert parsed.code == "recipient.invalid"
    assert says in parsed.detail


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("+12025550123", 1),
        ("+79161234567", 7),
        ("+442079460958", 44),
        ("+85261234567", 852),
        ("+886912345678", 886),
        ("+6834002", 683),
        ("+4915112345678", 49),
    ],
)
def test_other_countries_by_their_calling_code(text, country):
    assert parse_number(text) == Number(text[1:], country, Carrier.OTHER)


@given(st.text(max_size=20) | st.from_regex(r"\+?[0-9]{0,17}", fullmatch=True))
def test_what_is_taken_is_plain_digits(text):
    parsed = parse_number(text)
    if isinstance(parsed, Number):
        assert set(parsed.digits) <= set("0123456789")
        assert 7 <= len(parsed.digits) <= 15
        assert parsed.digits.startswith(str(parsed.country))
        assert text in ("+" + parsed.digits, parsed.digits[2:])
    else:
        # no echo of the input
        assert len(text) < 8 or text not in parsed.detail


def test_calling_codes_are_free_of_prefixes():
    data = json.loads(
        (Path(__file__).parents[3] / "sms" / "data" / "calling-codes.json").read_text("utf-8")
    )
    codes = [str(code) for code in data["geographic"] + data["services"]]
    assert len(set(codes)) == len(codes)
    for code in codes:
        assert not any(other != code and other.startswith(code) for other in codes)


@pytest.mark.parametrize(
    "wire", ["13800138000", "8613800138000", "+8613800138000", "008613800138000", " 13800138000 "]
)
def test_a_carrier_may_spell_a_phone_in_any_of_these_ways(wire):
    assert phone_of(wire, is_mainland=True) == "8613800138000"


@pytest.mark.parametrize("number", ["13475550123", "17185550123", "19175550123", "18005550123"])
def test_a_phone_abroad_never_becomes_one_of_the_mainland(number):
    assert phone_of("+" + number, is_mainland=True) == number
    assert phone_of("00" + number, is_mainland=True) == number
    assert phone_of(number, is_mainland=False) == number


@pytest.mark.parametrize("is_mainland", [True, False])
@pytest.mark.parametrize("wire", ["10086", "Bank", "", "12025550123", "85291234567", "A+B"])
def test_other_senders_stay_as_they_came(wire, is_mainland):
    assert phone_of(wire, is_mainland=is_mainland) == wire


def test_what_no_sender_has_in_its_name_is_not_passed_on():
    assert phone_of('AB"C\\D\n\u00e9', is_mainland=True) == "AB?C?D??"
