"""Templates: filled and found again, whatever the values are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms import templates
from sms.model import Filled, MessageClass
from sms.templates import MAX_VALUE, Book, Look, Template, Twin, names_in, text_refusal

OTP, MARKETING = MessageClass.OTP, MessageClass.MARKETING
CODE = "您的验证码是{code}，{minutes}分钟内有效。"


def template(text=CODE, number=1, tenant=0, of=OTP, **twins):
    return Template(number, "t", tenant, of, text, {int(k[1:]): v for k, v in twins.items()})


def test_a_text_is_filled_and_read_back():
    text = template().fill({"code": "123456", "minutes": "5"})
    assert text == "您的验证码是123456，5分钟内有效。"
    assert template().match(text) == {"code": "123456", "minutes": "5"}


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({"code": "1"}, [("minutes", "missing")]),
        ({}, [("code", "missing"), ("minutes", "missing")]),
        ({"code": "1", "minutes": "2", "x": ""}, [("x", "unknown")]),
        ({"code": "", "minutes": "5"}, [("code", "value")]),
        ({"code": "x" * MAX_VALUE, "minutes": "x" * (MAX_VALUE + 1)}, [("minutes", "value")]),
        ({"code": "1\n2", "minutes": "5\x85"}, [("code", "value"), ("minutes", "value")]),
    ],
)
def test_values_that_do_not_fit_are_told_all_at_once(values, faults):
    found = template().fill(values)
    assert [(fault.name, fault.code) for fault in found] == faults
    assert all(";" in fault.detail for fault in found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "您的验证码是，5分钟内有效。",
        "您的验证码是1，分钟内有效。",
        "您的验证码是123456，5分钟内有效",
        "验证码是123456，5分钟内有效。",
        "您的验证码是12\n3，5分钟内有效。",
        "您的验证码是" + "1" * (MAX_VALUE + 1) + "，5分钟内有效。",
    ],
)
def test_a_text_of_no_template(text):
    assert template().match(text) is None


def test_the_ends_of_a_template_do_not_overlap():
    assert template("aba{x}aba").match("ababa") is None
    assert template("a{x}-{y}a").match("a1-a") is None


def test_a_template_without_variables_is_only_itself():
    assert template("Hello").match("Hello") == {}
    assert template("Hello").match("Hello!") is None
    assert template("Hello").fill({}) == "Hello"


literals = st.text("ab-", max_size=3)
inner = st.text("ab-", min_size=1, max_size=3)
values = st.text("ab-c", min_size=1, max_size=12) | st.text("a-", min_size=190, max_size=MAX_VALUE)


@st.composite
def filled(draw):
    count = draw(st.integers(0, 4))
    parts = [draw(literals)] + [draw(inner) for _ in range(count - 1)]
    parts += [draw(literals)] if count else []
    text = parts[0] + "".join(f"{{v{i}}}{part}" for i, part in enumerate(parts[1:]))
    return template(text or "x"), {f"v{i}": draw(values) for i in range(count)}


@given(filled())
def test_what_is_filled_is_always_found_and_says_the_same(case):
    one, given_values = case
    text = one.fill(given_values)
    assert isinstance(text, str)
    found = one.match(text)
    assert found is not None
    assert one.fill(found) == text


@given(filled(), st.text("ab-c", max_size=30))
def test_whatever_is_found_says_the_very_text(case, text):
    one, _ = case
    found = one.match(text)
    if found is not None:
        assert one.fill(found) == text


def test_a_value_with_the_next_literal_in_it_is_found_by_the_longer_way():
    one = template("{a}-{b}")
    text = one.fill({"a": "1-" + "2" * 100, "b": "3" * 150})
    found = one.match(text)  # the first - would leave too long a second value
    assert found == {"a": "1-" + "2" * 100, "b": "3" * 150}
    assert one.match("1\n-2-3") is None


def test_the_work_grows_with_the_text_and_not_with_the_ways_to_read_it(monkeypatch):
    looks = []

    def is_value(text, start, end):
        looks.append(1)
        return end - start == 2  # so that the short way never does

    monkeypatch.setattr(templates, "_is_value", is_value)
    one = template("".join(f"{{v{i}}}a" for i in range(20)) + "!")
    assert one.match("a" * 5000 + "!") is None
    assert len(looks) <= 21 * 5000


def test_a_look_through_all_templates_has_an_end_for_all_channels_together(monkeypatch):
    looks, tries = [], []
    is_value, match = templates._is_value, Template.match

    def counted(text, start, end):
        looks.append(1)
        return is_value(text, start, end)

    def tried(self, text, places):
        tries.append(self.id)
        return match(self, text, places)

    monkeypatch.setattr(templates, "_is_value", counted)
    monkeypatch.setattr(Template, "match", tried)
    hard = "x" + "a".join(f"{{v{i}}}" for i in range(20)) + "y"
    twin = Twin("c", ())
    book = Book(template(hard, number, c7=twin, c8=twin) for number in range(1, 101))
    look = Look(book, 1, OTP)
    text = "x" + "a" * 2500 + "\ny"
    assert look.twin(7, text) is look.twin(8, text) is None
    assert len(looks) <= templates.MAX_PLACES + 100 * 21  # the short way needs none
    assert tries == list(range(1, 101))  # each once, for both channels


def test_a_text_that_needs_every_place_is_found_in_time():
    """The hardest of an honest kind: eight values of 60 characters, each with the next literal."""
    one = template("，".join(f"{{v{i}}}" for i in range(8)) + "。")
    text = one.fill({f"v{i}": "甲，" * 30 for i in range(8)})
    assert one.fill(one.match(text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "characters"),
        ("  ", "white space"),
        ("x" * 1001, "characters"),
        ("{a", "brace"),
        ("a}", "brace"),
        ("{}", "named"),
        ("{1}", "named"),
        ("{a b}", "named"),
        ("{" + "x" * 33 + "}", "named"),
        ("{a}{b}", "side by side"),
        ("{a} {a}", "twice"),
        ("".join(f"{{v{i}}} " for i in range(21)), "at most 20"),
        ("【某商城】{a}", "【"),
        ("a\x00b", "control"),
    ],
)
def test_texts_that_are_no_template(text, word):
    assert word in (text_refusal(text) or "")


@pytest.mark.parametrize("text", [CODE, "plain", "two\nlines", "{a}", "{a} {b}", "x{_A1}"])
def test_texts_that_are_templates(text):
    assert text_refusal(text) is None
    assert list(template(text).names) == names_in(text)


def test_a_channel_gets_its_own_code_and_order():
    book = Book(
        [template(c7=Twin("SMS_1", ("code", "minutes")), c8=Twin("2", ("minutes", "code")))]
    )
    text = "您的验证码是123456，5分钟内有效。"
    assert Look(book, 1, OTP).twin(7, text) == Filled(
        "SMS_1", (("code", "123456"), ("minutes", "5"))
    )
    assert Look(book, 1, OTP).twin(8, text) == Filled("2", (("minutes", "5"), ("code", "123456")))
    assert Look(book, 1, OTP).twin(9, text) is None
    assert Look(book, 1, MARKETING).twin(7, text) is None
    assert Look(book, 1, OTP).twin(7, "您好") is None


def test_the_owners_template_goes_first_then_the_one_that_says_more():
    def one(number, text, tenant=0):
        return template(text, number, tenant, c7=Twin(str(number), tuple(names_in(text))))

    def code(tenant, text):
        found = Look(book, tenant, OTP).twin(7, text)
        return None if found is None else found.code

    book = Book([one(1, "{all}"), one(2, "code {x}"), one(3, "code {x} ok"), one(4, "{all}", 5)])
    assert code(1, "code 1 ok") == "3"
    assert code(1, "code 1") == "2"
    assert code(1, "hello") == "1"
    assert code(5, "code 1 ok") == "4"
    assert code(1, "") is None
