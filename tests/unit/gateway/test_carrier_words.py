"""What carriers say of numbers and with codes nobody knows: noted, bounded, said once."""

from __future__ import annotations

import pytest
import structlog

from gateway.carrier_words import CLASSES, FREE, MAX_WAITING, CarrierWords
from sms.model import Held, Message, MessageClass, Report
from sms.outcomes import Cause, Rejected, Submitted
from telemetry.metrics import Metrics
from tests.support.flow_kit import Kit
from tests.unit.gateway.test_reports import Desk

INVALID = "recipient.invalid"


def texts(count: int) -> list[Message]:
    kit = Kit()
    found = [kit.message() for _ in range(count)]
    for n, message in enumerate(found):
        message.number = f"86138001{n:05}"
    return found


def test_a_number_that_is_no_good_waits_to_be_suppressed_but_never_for_otp() -> None:
    words = CarrierWords(Metrics())
    one, two = texts(2)
    words.bad_number("c1", one, INVALID)
    words.bad_number("c1", one, "recipient.blocked")  # what came first stands
    words.bad_number("c1", two, "recipient.absent")  # a phone that is off is a good number
    [wanted] = words.waiting()
    assert (wanted.tenant, wanted.number, wanted.why) == (1, one.number, Held.INVALID)
    assert wanted.classes == CLASSES == {MessageClass.MARKETING, MessageClass.TRANSACTIONAL}
    assert one.number not in wanted.shown  # it goes into the audit log
    words.written([wanted])
    assert words.waiting() == []


def test_a_channel_that_refuses_every_number_gives_up_few_of_them() -> None:
    """A wrong `number_format` must not empty a tenant's list of recipients."""
    metrics = Metrics()
    words = CarrierWords(metrics)
    for one in texts(200):
        words.bad_number("c1", one, INVALID)
    assert len(words.waiting()) == FREE
    assert metrics.bad_numbers_total.values == {("c1", "suppressed"): 10, ("c1", "left"): 190}
    words.taken("c1", 50)
    for one in texts(200):
        words.bad_number("c1", one, INVALID)
    assert metrics.bad_numbers_total.values["c1", "suppressed"] == FREE + 5


def test_what_waits_is_bounded_and_may_be_switched_off() -> None:
    words = CarrierWords(Metrics())
    words.taken("c1", 1_000_000)
    for one in texts(MAX_WAITING + 5):
        words.taken("c1", 10)
        words.bad_number("c1", one, INVALID)
    assert len(words.waiting()) == MAX_WAITING
    off = CarrierWords(Metrics(), suppresses=False)
    off.bad_number("c1", texts(1)[0], INVALID)
    assert off.waiting() == []


def test_a_code_that_no_table_has_is_named_in_the_log_once() -> None:
    words = CarrierWords(metrics := Metrics())
    with structlog.testing.capture_logs() as lines:
        for code in ("0x00000401", "0x00000401", "0x00000402", "+8613800138000 is bad"):
            words.unmapped("c1", code)
    assert [line["code"] for line in lines] == ["0x00000401", "0x00000402", "other"]
    assert metrics.unmapped_codes_total.values["c1", "0x00000401"] == 2


@pytest.mark.parametrize(
    ("cause", "reason", "is_bad"),
    [
        (Cause.NUMBER, INVALID, True),
        (Cause.NUMBER, "recipient.blocked", True),
        (Cause.NUMBER, "recipient.absent", False),
        (Cause.CONTENT, "content.blocked", False),
    ],
)
def test_a_final_answer_tells_of_its_number(cause: Cause, reason: str, is_bad: bool) -> None:
    kit = Kit()
    kit.accept(kit.message())
    kit.answer(1, Rejected("13", cause, reason))
    assert bool(kit.words.waiting()) is is_bad


@pytest.mark.parametrize(
    ("state", "error", "is_bad"),
    [
        ("MK:0001", "", True),
        ("MK:7777", "", False),  # known by its prefix only
        ("UNDELIV", "001", False),  # vendors number these differently
        ("MI:0024", "", False),
        ("DELIVRD", "", False),
    ],
)
def test_a_report_tells_of_its_number_if_its_code_is_recorded(
    state: str, error: str, is_bad: bool
) -> None:
    desk = Desk()
    kit = desk.kit
    kit.accept(kit.message())
    kit.answer(1, Submitted("a"))
    desk.reports.receive(1, [Report(1, "a", state, error, "", "token")])
    assert bool(kit.words.waiting()) is is_bad
