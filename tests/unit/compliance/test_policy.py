"""What policy says of a message at accept and just before it leaves."""

from __future__ import annotations

from datetime import datetime

from compliance.policy import QUIET_HOURS, SendingPolicy, Verdict
from compliance.suppressions import OPTED_OUT, unkeyed_index
from sms.model import Carrier, Encoding, Message, MessageClass

OTP, TRANSACTIONAL, MARKETING = MessageClass
NOON = datetime.fromisoformat("2026-11-22T12:00:00+08:00").timestamp()
NIGHT = datetime.fromisoformat("2026-11-22T22:00:00+08:00").timestamp()
MORNING = datetime.fromisoformat("2026-11-23T09:00:00+08:00").timestamp()
NUMBER = "8613800138000"


def message(cls: MessageClass = MARKETING, country: int = 86) -> Message:
    return Message(
        1, 1, cls, NUMBER, Carrier.CM, country, Encoding.UCS2, ("t",), NIGHT + 86_400, NOON
    )


def test_marketing_to_the_mainland_has_hours_and_nothing_else_has() -> None:
    policy = SendingPolicy()
    assert policy.verdict(message(), NOON) is None
    assert policy.verdict(message(), NIGHT) == Verdict(QUIET_HOURS, MORNING)
    assert policy.verdict(message(country=1), NIGHT) is None
    assert policy.verdict(message(TRANSACTIONAL), NIGHT) is None
    assert policy.verdict(message(OTP), NIGHT) is None


def test_who_is_suppressed_gets_nothing_whatever_the_hour() -> None:
    policy = SendingPolicy()
    policy.suppress(1, unkeyed_index(1, NUMBER), {MARKETING})
    for moment in (NOON, NIGHT):
        assert policy.verdict(message(), moment) == Verdict(OPTED_OUT)
    assert policy.verdict(message(TRANSACTIONAL), NOON) is None


def test_only_classes_that_may_be_stopped_are_watched() -> None:
    policy = SendingPolicy()
    index = unkeyed_index(1, NUMBER)
    assert policy.watched == {MARKETING}
    policy.suppress(1, index, {OTP, MARKETING})
    assert policy.watched == {MARKETING, OTP}
    policy.suppress(1, index, ())
    assert policy.watched == {MARKETING}
