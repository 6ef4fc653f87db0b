"""What `admit` decides by itself; the refusals as a tenant sees them are in api/test_send.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.policy import SendingPolicy
from compliance.suppressions import unkeyed_index
from gateway.admit import Refused, Rules, admit, charge
from gateway.api.models import SendRequest
from gateway.preview import preview
from sms.config import Channel, Route, Snapshot, Tenant
from sms.model import Carrier, Encoding, Message, MessageClass
from sms.portability import Portability
from sms.segmentation import MAX_SEGMENTS
from tests.support.fake_flow import FakeLimiter

TENANT = Tenant(1, "shop", ("某商城", "Shop"), (86, 1, 44))
RULES = Rules(Snapshot(1, {1: TENANT}, routes=(Route(1, 0, None, None, 0, (7,)),)))
NOW = 1_800_000_000.0


def ask(rules=RULES, tenant=TENANT, **fields):
    return admit(SendRequest(**{"to": "13800138000", "text": "x", **fields}), tenant, rules, NOW)


@pytest.mark.parametrize(
    ("message_class", "seconds"),
    [
        (MessageClass.OTP, 300),
        (MessageClass.TRANSACTIONAL, 36_000),
        (MessageClass.MARKETING, 86_400),
    ],
)
def test_validity_follows_the_class(message_class, seconds):
    assert ask(message_class=message_class).valid_until == NOW + seconds


def test_what_is_admitted_has_no_id_yet():
    message = ask()
    assert isinstance(message, Message)
    assert (message.id, message.tenant, message.number, message.carrier) == (
        0, 1, "8613800138000", Carrier.CM,
    )  # fmt: skip


def test_routes_are_asked_for_the_very_network():
    only_unicom = Rules(Snapshot(1, {1: TENANT}, routes=(Route(1, 0, None, Carrier.CU, 86, (7,)),)))
    assert isinstance(ask(only_unicom, to="+8613000138000"), Message)
    refused = ask(only_unicom)
    assert isinstance(refused, Refused)
    assert refused.errors[0].code == "route.missing"
    assert "CM" in refused.errors[0].detail


def test_a_ported_number_goes_by_the_carrier_it_lives_with():
    ported = Portability(int)
    ported.change(8613800138000, Carrier.CU)
    only_unicom = Snapshot(1, {1: TENANT}, routes=(Route(1, 0, None, Carrier.CU, 86, (7,)),))
    rules = Rules(only_unicom, None, ported)
    message = ask(rules)
    assert isinstance(message, Message)
    assert message.carrier is Carrier.CU
    request = SendRequest(to="13800138000", text="x")
    assert preview(request, TENANT, rules, NOW).channels == (7,)
    ported.change(8613800138000, None)  # the same rules: nothing of it is remembered
    assert isinstance(ask(rules), Refused)
    assert preview(request, TENANT, rules, NOW).channels == ()


def test_a_new_snapshot_is_asked_anew():
    assert isinstance(ask(), Message)
    assert isinstance(ask(Rules(Snapshot(2, {1: TENANT}))), Refused)


@pytest.mark.parametrize(
    ("number", "is_good"),
    [
        ("+14155552671", True),
        ("+15551234567", True),
        ("+442071838750", True),
        ("+447911123456", True),
        ("+1415555267", False),
        ("+10155552671", False),
        ("+1 4155552671", False),
        ("+44207183875099", False),
    ],
)
def test_numbers_abroad(number, is_good):
    assert isinstance(ask(to=number), Message) is is_good


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("+19005550123", "premium-rate"),
        ("+449098790123", "premium-rate"),
        ("+491805123456", "shared-cost"),
        ("+8610690012345678", "access number"),
        ("12306", "short number"),
    ],
)
def test_numbers_that_no_text_reaches_are_refused_with_the_reason(number, says):
    refused = ask(to=number)
    assert isinstance(refused, Refused)
    assert refused.errors[0].code == "recipient.invalid"
    assert says in refused.errors[0].detail
    assert number not in refused.errors[0].detail


def test_the_country_list_is_the_tenant_s():
    refused = ask(tenant=replace(TENANT, countries=(1,)))
    assert refused.errors[0].code == "recipient.country_not_allowed"


@given(st.text(min_size=1, max_size=400))
def test_the_final_text_is_the_signature_and_the_text(text):
    answer = ask(text=text, max_segments=MAX_SEGMENTS)
    if isinstance(answer, Message):
        assert "".join(answer.texts) == f"【某商城】{text}"
    else:
        assert text.isspace() or "【" in text or "】" in text


async def test_charging_is_all_or_nothing():
    limiter = FakeLimiter(depth=10, rate=4.0)
    assert (
        await charge(
            limiter, TENANT, {MessageClass.OTP: 3, MessageClass.MARKETING: 5}, "/text", 0.0
        )
    )[1] is None
    _, problem = await charge(limiter, TENANT, {MessageClass.OTP: 8}, "/text", 0.0)
    assert problem is not None
    assert problem.code == "quota.segments_per_second"
    assert problem.headers == [(b"retry-after", b"2")]
    _, problem = await charge(limiter, TENANT, {MessageClass.OTP: 11}, "/messages", 0.0)
    assert problem is not None
    assert (problem.code, problem.errors[0].pointer) == ("quota.message_too_large", "/messages")


# ---- hours, opt-out line, suppressions -----------------------------------------------------------

MARKETING = MessageClass.MARKETING
CHANNEL = Channel(7, "mobile-a", "smpp", {})
WITH_CHANNEL = Snapshot(
    1, {1: TENANT}, channels={7: CHANNEL}, routes=(Route(1, 0, None, None, 0, (7,)),)
)
NIGHT = datetime.fromisoformat("2027-01-15T22:00:00+08:00").timestamp()
MORNING = datetime.fromisoformat("2027-01-16T09:00:00+08:00").timestamp()


def at(now, policy=None, **fields):
    rules = Rules(WITH_CHANNEL, policy)
    request = SendRequest(**{"to": "13800138000", "text": "x", **fields})
    return admit(request, TENANT, rules, now)


def moment(unix):
    return datetime.fromtimestamp(unix, UTC).isoformat()


@given(st.integers(1, 35 * 86_400), st.integers(5, 259_200))
def test_a_later_moment_is_kept_and_validity_counts_from_it(ahead_s, valid_for_s):
    message = at(NOW, send_at=moment(NOW + ahead_s), valid_for_s=valid_for_s)
    assert (message.send_at, message.state, message.sequence) == (NOW + ahead_s, "scheduled", 2)
    assert message.valid_until == NOW + ahead_s + valid_for_s
    assert message.created_at == NOW
    assert message.reason is None


@given(st.integers(0, 60))
def test_a_moment_just_past_means_at_once(ago_s):
    message = at(NOW, send_at=moment(NOW - ago_s))
    assert (message.send_at, message.state, message.sequence) == (None, "accepted", 1)
    assert message.valid_until == NOW - ago_s + 36_000


@pytest.mark.parametrize("off_s", [-61, -86_400, 35 * 86_400 + 1, 10**9])
def test_a_moment_out_of_range_is_refused(off_s):
    refused = at(NOW, send_at=moment(NOW + off_s))
    assert [(e.pointer, e.code) for e in refused.errors] == [("/send_at", "field.value")]


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-15T16:10:00",  # no zone
        "2027-01-15 16:10:00+08:00",
        "2027-01-15",
        "2027-13-15T16:10:00Z",
        "2027-01-15T25:10:00Z",
        "2027-01-15T16:10:60Z",
        "２027-01-15T16:10:00Z",
        "2027-01-15T16:10:00+25:00",
        "1800000000",
        "",
    ],
)
def test_what_is_no_moment_is_refused(text):
    refused = at(NOW, send_at=text)
    assert [(e.pointer, e.code) for e in refused.errors] == [("/send_at", "field.value")]
    assert text not in refused.errors[0].detail or not text


@pytest.mark.parametrize(
    "text", ["2027-01-15T16:10:00+08:00", "2027-01-15t08:10:00z", "2027-01-15T08:10:00.000000Z"]
)
def test_the_ways_to_write_a_moment(text):
    assert at(NOW, send_at=text).send_at == NOW + 600


def test_marketing_at_night_waits_for_the_morning():
    message = at(NIGHT, message_class=MARKETING)
    assert (message.send_at, message.state, message.reason) == (
        MORNING, "scheduled", "policy.quiet_hours",
    )  # fmt: skip
    assert message.valid_until == NIGHT + 86_400
    assert at(NIGHT).send_at is None
    assert at(NIGHT, message_class=MARKETING, to="+14155552671").send_at is None
    assert at(NOW, message_class=MARKETING).send_at is None


def test_a_moment_at_night_moves_to_the_morning():
    asked = NIGHT + 3600
    message = at(NOW, message_class=MARKETING, send_at=moment(asked))
    assert (message.send_at, message.reason) == (MORNING, "policy.quiet_hours")
    assert message.valid_until == asked + 86_400
    by_day = at(NOW, message_class=MARKETING, send_at=moment(NOW + 3600))
    assert (by_day.send_at, by_day.reason) == (NOW + 3600, None)


def test_marketing_carries_the_opt_out_line_of_its_channel():
    assert "".join(at(NOW, message_class=MARKETING).texts) == "【某商城】x拒收请回复R"
    assert "".join(at(NOW).texts) == "【某商城】x"
    foreign = at(NOW, message_class=MARKETING, to="+14155552671")
    assert (foreign.texts, foreign.encoding) == (("x",), "gsm7")
    own = replace(WITH_CHANNEL, channels={7: replace(CHANNEL, opt_out_line="STOP")})
    request = SendRequest(to="+14155552671", text="x", message_class=MARKETING)
    message = admit(request, TENANT, Rules(own), NOW)
    assert isinstance(message, Message)
    assert message.texts == ("x STOP",)


def test_a_route_with_16_bit_references_cuts_with_room_for_them():
    wide = replace(WITH_CHANNEL, channels={7: replace(CHANNEL, reference_bits=16)})
    text = "字" * (134 - len("【某商城】"))
    for snapshot, sizes in ((WITH_CHANNEL, [67, 67]), (wide, [66, 66, 2])):
        message = admit(SendRequest(to="+8613800138000", text=text), TENANT, Rules(snapshot), NOW)
        assert isinstance(message, Message)
        assert [len(part) for part in message.texts] == sizes
    limited = SendRequest(to="+8613800138000", text=text, max_segments=2)
    refused = admit(limited, TENANT, Rules(wide), NOW)
    assert isinstance(refused, Refused)
    assert refused.errors[0].code == "content.too_long"


def test_the_line_is_counted():
    text = "字" * 64  # with 【某商城】 one segment less one character
    assert at(NOW, text=text, max_segments=1).segments == 1
    refused = at(NOW, text=text, max_segments=1, message_class=MARKETING)
    assert refused.errors[0].code == "content.too_long"


def test_who_is_suppressed_is_refused():
    policy = SendingPolicy()
    policy.suppress(1, unkeyed_index(1, "8613800138000"), {MARKETING})
    policy.suppress(0, unkeyed_index(0, "8613900139000"), {MARKETING, MessageClass.OTP})
    refused = at(NOW, policy, message_class=MARKETING)
    assert [(e.pointer, e.code) for e in refused.errors] == [("/to", "policy.opted_out")]
    assert "13800138000" not in refused.errors[0].detail
    assert isinstance(at(NOW, policy), Message)
    refused = at(NOW, policy, message_class=MessageClass.OTP, to="13900139000")
    assert [(e.pointer, e.code) for e in refused.errors] == [("/to", "recipient.blocked")]
    assert isinstance(at(NOW, policy, to="13900139000"), Message)


def test_a_route_whose_channels_do_not_serve_the_network_is_none():
    own = replace(WITH_CHANNEL, channels={7: replace(CHANNEL, carriers=frozenset({Carrier.CU}))})
    refused = ask(Rules(own))
    assert isinstance(refused, Refused)
    assert refused.errors[0].code == "route.missing"
    assert isinstance(ask(Rules(own), to="+8613000138000"), Message)


def test_a_text_abroad_is_ucs2_where_a_channel_of_its_route_carries_no_gsm7():
    wide = Rules(
        replace(WITH_CHANNEL, channels={7: replace(CHANNEL, encodings=frozenset({Encoding.UCS2}))})
    )
    message = ask(wide, to="+14155552671", text="x" * 71)
    assert isinstance(message, Message)
    assert (message.encoding, message.segments) == (Encoding.UCS2, 2)
    assert ask(to="+14155552671", text="x" * 71).segments == 1
    refused = ask(wide, to="+14155552671", encoding="gsm7")
    assert isinstance(refused, Refused)
    assert [(e.pointer, e.code) for e in refused.errors] == [("/encoding", "content.not_gsm7")]
