"""What follows from each outcome of RELIABILITY section 6, row by row, where it is not obvious."""

from __future__ import annotations

import pytest
import structlog

from gateway.carrier_words import LOOKS, CarrierWords
from gateway.twins import template_of
from sms.codes import outcome_of
from sms.config import Snapshot
from sms.model import Encoding, MessageClass, State
from sms.outcomes import Cause, Rejected
from sms.templates import Template
from telemetry.metrics import Metrics
from tests.support.flow_kit import Kit

UNKNOWN = Rejected("0x00000401", Cause.UNKNOWN, "carrier.unknown_code")
SYSTEM = Rejected("0x00000008", Cause.CHANNEL, "carrier.system_error")
CONTENT = Rejected("0x00000400", Cause.CONTENT, "content.blocked")


def waited(kit: Kit) -> None:
    kit.clock.now += 61.0
    kit.dispatcher.tick()
    kit.events.flush()


@pytest.mark.parametrize(
    ("answers", "tried"),
    [
        ([UNKNOWN, UNKNOWN], 2),
        ([SYSTEM, UNKNOWN, UNKNOWN], 3),  # the fault before it was another one
    ],
)
def test_an_unknown_code_gets_one_other_channel_and_is_then_final(
    answers: list[Rejected], tried: int
) -> None:
    kit = Kit(channels=4)
    message = kit.message(valid_s=40_000.0)
    kit.accept(message)
    for channel, answer in enumerate(answers, start=1):
        assert message.state is State.SUBMITTING
        kit.answer(channel, answer)
        waited(kit)
    assert message.state is State.FAILED
    assert message.reason == "carrier.unknown_code"
    assert [len(one.seen) for one in kit.channels.values()] == [1] * tried + [0] * (4 - tried)


def test_the_wait_after_a_system_error_doubles_and_never_exceeds_its_cap() -> None:
    kit = Kit(channels=1)
    kit.dispatcher.has_other = lambda message, channel: True  # type: ignore[method-assign]
    message = kit.message()
    kit.accept(message)
    submit = kit.channels[1].open.pop()
    for attempt, least, most in ((1, 0.8, 1.2), (4, 6.4, 9.6), (9, 60.0, 60.0)):
        for _ in range(20):
            message.state, message.attempt, submit.attempt = State.SUBMITTING, attempt, attempt
            message.answers, message.open_segments = [None], 1
            kit.settler._policy = type(kit.settler._policy)(max_attempts=16)
            kit.settler.outcomes(1, [(submit, SYSTEM)])
            assert least <= message.not_before - kit.clock.now <= most


@pytest.mark.parametrize(("reason", "is_left"), [("account", True), ("config", False)])
def test_a_code_that_surely_speaks_of_the_account_opens_the_channel_at_once(
    reason: str, *, is_left: bool
) -> None:
    """A wrong sender is one tenant's; an empty balance is everybody's."""
    kit = Kit()
    outcome = outcome_of(f"perm_{reason}", "x")
    message = kit.message()
    kit.accept(message)
    submit = kit.channels[1].open.pop()
    kit.dispatcher.heard(1, [(submit, outcome)])
    kit.settler.outcomes(1, [(submit, outcome)])
    kit.events.flush()
    kit.clock.now += 1.0
    kit.dispatcher.tick()
    assert kit.dispatcher.is_left(1) is is_left
    kit.events.flush()
    assert [s.message for s in kit.channels[2].seen] == [message]  # now, without a wait


def test_refused_content_goes_to_no_second_channel_and_is_an_alarm_of_its_template() -> None:
    kit = Kit()
    template = Template(7, "code", 1, MessageClass.TRANSACTIONAL, "Your code is {code}.")
    snapshot = Snapshot(templates={7: template})
    kit.words.template_of = lambda message: template_of(snapshot, message)
    texts = [("【某商城】Your code is 4711.",), ("Your code is 4712.",), ("Something else",)]
    with structlog.testing.capture_logs() as logs:
        for text in texts:
            message = kit.message(texts=text)
            message.encoding = Encoding.UCS2
            kit.accept(message)
            kit.answer(1, CONTENT)
            waited(kit)
            assert message.state is State.FAILED
    assert kit.channels[2].seen == []
    shown = f"tpl_{7:016x}"
    counted = kit.metrics.content_refused_total.values
    assert counted == {("c1", shown): 2, ("c1", "none"): 1}
    named = [one["template"] for one in logs if one["event"].startswith("a carrier refuses")]
    assert named == [shown, "none"]  # once each
    assert all("4711" not in str(one) for one in logs)


def test_a_carrier_that_refuses_everything_costs_few_looks() -> None:
    words, kit = CarrierWords(Metrics()), Kit()
    looks: list[int] = []

    def looked(message: object) -> None:
        looks.append(1)

    words.template_of = looked
    for _ in range(10 * LOOKS):
        words.content_refused("c1", kit.message(), "x")
    assert len(looks) == LOOKS
    words.waiting()  # a second later
    words.content_refused("c1", kit.message(), "x")
    assert len(looks) == LOOKS + 1
