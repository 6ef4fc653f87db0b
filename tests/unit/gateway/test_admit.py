"""What `admit` decides by itself; the refusals as a tenant sees them are in api/test_send.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admit import Refused, Rules, admit, charge
from gateway.api.models import SendRequest
from sms.config import Route, Snapshot, Tenant
from sms.model import Carrier, Message, MessageClass
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
