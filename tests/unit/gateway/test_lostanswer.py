"""What follows a lost answer: whose word holds, the one copy, and the operator's wish."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.copies import Copies
from gateway.lostanswer import USUAL, CopyVerdict, Policies
from receipts.state import Path
from sms.config import Tenant
from sms.model import EventRow, Message, MessageClass, OnUncertain, State, UncertainPolicy
from sms.outcomes import Cause, Rejected, Submitted, Uncertain
from tests.support.flow_kit import Kit

SYSTEM = Rejected("0x00000008", Cause.CHANNEL, "carrier.system_error")
ASK = UncertainPolicy.ASK


def asking(kit: Kit, tenant: int = 1) -> None:
    kit.evidence.policies.use([Tenant(tenant, "shop", on_uncertain=ASK)])


def lost(kit: Kit, message: Message, channel: int = 1) -> Message:
    """Its first submit has no answer."""
    kit.accept(message)
    kit.answer(channel, Uncertain("submit.timeout"))
    assert message.state is State.UNCERTAIN
    return message


def order(kit: Kit, message: Message) -> CopyVerdict | EventRow:
    done: list[bool] = []
    found = kit.evidence.order(message, lambda: done.append(True))
    kit.events.flush()
    assert bool(done) is isinstance(found, EventRow)
    return found


@pytest.mark.parametrize("own", [None, *OnUncertain])
@pytest.mark.parametrize("tenants", [None, *UncertainPolicy])
@pytest.mark.parametrize("platforms", list(UncertainPolicy))
def test_the_last_that_says_so_decides(
    own: OnUncertain | None, tenants: UncertainPolicy | None, platforms: UncertainPolicy
) -> None:
    """platform < tenant < template < message; a template's word stands on the message."""
    policies = Policies(dict.fromkeys(MessageClass, platforms))
    policies.use([Tenant(1, "shop", on_uncertain=tenants), Tenant(2, "other")])
    message = Kit().message(on_uncertain=own)
    assert policies.of(message).value == (own or tenants or platforms).value
    assert policies.of(replace(message, tenant=2)).value == (own or platforms).value


def test_the_classes_have_their_usual_ones() -> None:
    kit = Kit()
    found = {cls: kit.evidence.policies.of(kit.message(cls)) for cls in MessageClass}
    assert found == USUAL


def test_ask_holds_until_an_operator_wants_exactly_one_copy() -> None:
    kit = Kit()
    asking(kit)
    message = lost(kit, kit.message(valid_s=40_000.0))
    kit.clock.now += 600.0
    kit.evidence.due(message)
    kit.events.flush()
    assert message.state is State.UNCERTAIN  # nothing by itself
    row = order(kit, message)
    assert isinstance(row, EventRow)
    assert (row.path, row.copy, row.reason) == (Path.QUEUED, 1, "uncertain.operator")
    assert message.duplicate_risk
    kit.events.flush()
    assert [s.message for s in kit.channels[2].seen] == [message]  # another channel first
    for _ in range(3):
        assert order(kit, message) is CopyVerdict.DONE
    kit.answer(2, Submitted("b"))
    assert order(kit, message) is CopyVerdict.DONE
    assert kit.metrics.duplicate_copies_total.values[()] == 1


def test_the_operators_list_says_what_waits_for_him_and_until_when() -> None:
    kit = Kit()
    asking(kit)
    message = lost(kit, kit.message(valid_s=600.0))
    at, deadline = message.uncertain_at, message.uncertain_at + 259_200.0
    assert kit.evidence.prospect(message) == (ASK, deadline, message.valid_until - 1.0)
    otp = lost(kit, kit.message(MessageClass.OTP, valid_s=600.0))
    assert kit.evidence.prospect(otp).resend_until == otp.valid_until - 60.0
    own = lost(kit, kit.message(on_uncertain=OnUncertain.PROBE_THEN_RESEND))
    policy = UncertainPolicy.PROBE_THEN_RESEND
    assert kit.evidence.prospect(own) == (policy, at + 120.0, None)  # its copy comes by itself
    hold = lost(kit, kit.message(on_uncertain=OnUncertain.HOLD))
    assert kit.evidence.prospect(hold) == (UncertainPolicy.HOLD, deadline, None)
    kit.clock.now += 600.0
    assert kit.evidence.prospect(message) == (ASK, deadline, None)
    assert order(kit, message) is CopyVerdict.LATE


def test_the_list_and_the_door_agree_about_who_may_be_resent() -> None:
    for valid_s in (30.0, 70.0, 4000.0):
        for policy in (None, *OnUncertain):
            for later_s in (0.0, 9.0, 40.0, 121.0):
                kit = Kit()
                asking(kit)
                message = lost(kit, kit.message(on_uncertain=policy, valid_s=valid_s))
                kit.clock.now += later_s
                told = kit.evidence.prospect(message).resend_until
                assert (told is not None) is isinstance(order(kit, message), EventRow)


def test_what_an_operator_cannot_have() -> None:
    kit = Kit()
    hold = lost(kit, kit.message(on_uncertain=OnUncertain.HOLD))
    assert order(kit, hold) is CopyVerdict.POLICY
    asking(kit)
    assert order(kit, hold) is CopyVerdict.POLICY  # the message's own word stands above
    short = lost(kit, kit.message(MessageClass.OTP, valid_s=59.0))
    assert order(kit, short) is CopyVerdict.LATE
    late = lost(kit, kit.message(valid_s=30.0), channel=1)
    kit.clock.now += 31.0
    assert order(kit, late) is CopyVerdict.LATE
    known = kit.message()
    kit.accept(known)
    assert order(kit, known) is CopyVerdict.KNOWN
    assert kit.metrics.duplicate_copies_total.values.get((), 0) == 0


@pytest.mark.parametrize("now", [None, UncertainPolicy.HOLD])
def test_what_waited_for_an_operator_still_may_where_copies_are_made(
    now: UncertainPolicy | None,
) -> None:
    kit = Kit()
    asking(kit)
    message = lost(kit, kit.message(valid_s=40_000.0))
    kit.evidence.policies.use([Tenant(1, "shop", on_uncertain=now)])
    kit.clock.now += 119.0  # a copy of its own could still come
    assert order(kit, message) is CopyVerdict.POLICY
    kit.clock.now += 2.0
    assert message.state is State.UNCERTAIN
    found = order(kit, message)
    assert isinstance(found, EventRow) if now is None else found is CopyVerdict.POLICY


def test_the_copy_is_one_of_the_four_attempts() -> None:
    kit = Kit(channels=5)
    message = kit.message(valid_s=4000.0)
    kit.accept(message)
    for channel in (1, 2, 3):
        kit.answer(channel, SYSTEM)
        kit.clock.now += 10.0
        kit.dispatcher.tick()
        kit.events.flush()
    kit.answer(4, Uncertain("submit.timeout"))
    assert message.attempt == 4
    kit.clock.now += 200.0
    kit.evidence.due(message)
    kit.events.flush()
    assert message.state is State.UNCERTAIN
    assert not message.duplicate_risk


def test_a_copy_waits_for_the_retry_budget_and_is_not_marked_before() -> None:
    kit = Kit(window=100)
    messages = [kit.message(valid_s=4000.0) for _ in range(12)]
    kit.accept(*messages)
    for submit in list(kit.channels[1].open):
        kit.answer(1, Uncertain("submit.timeout"), submit)
    kit.clock.now += 121.0
    for message in messages:
        kit.evidence.due(message)
    kit.events.flush()
    assert [m.duplicate_risk for m in messages] == [True] * 10 + [False] * 2
    assert {m.state for m in messages[10:]} == {State.UNCERTAIN}
    kit.clock.now += 62.0
    for message in messages[10:]:
        kit.evidence.due(message)
    kit.events.flush()
    assert all(m.duplicate_risk for m in messages)


def test_an_operators_copy_does_not_wait_for_the_budget() -> None:
    kit = Kit(window=100)
    asking(kit)
    messages = [kit.message(valid_s=4000.0) for _ in range(15)]
    kit.accept(*messages)
    for submit in list(kit.channels[1].open):
        kit.answer(1, Uncertain("submit.timeout"), submit)
    for message in messages:
        assert isinstance(order(kit, message), EventRow)
    kit.events.flush()
    assert len(kit.channels[2].seen) == 15


class FakeReader:
    def __init__(self, *stored: Message) -> None:
        self.stored = {one.id: SimpleNamespace(message=one, rows=[]) for one in stored}

    async def messages(self, ids: list[int]) -> dict[int, Any]:
        return {one: self.stored[one] for one in ids if one in self.stored}


async def test_the_owner_finds_it_in_memory_or_in_the_store() -> None:
    kit = Kit()
    asking(kit)
    message = lost(kit, kit.message(valid_s=4000.0))
    del kit.evidence.waiting[message.id]  # 20,000 others came after it
    reader: Any = FakeReader(message)
    kit.events.add = _committing(kit)  # type: ignore[method-assign]
    copies = Copies(kit.ledger, kit.evidence, reader)
    assert await copies.make(message.id) is CopyVerdict.MADE
    assert await copies.make(message.id) is CopyVerdict.DONE
    assert await copies.make(4711) is CopyVerdict.ELSEWHERE


def _committing(kit: Kit) -> Any:
    """An event lane that commits at once."""
    add = kit.events.add

    def at_once(*args: Any, **more: Any) -> None:
        add(*args, **more)
        kit.events.flush()

    return at_once


async def test_a_row_that_lost_its_place_is_looked_at_again() -> None:
    kit = Kit()
    asking(kit)
    message = lost(kit, kit.message(valid_s=4000.0))
    kit.events.committed = lambda rows: None  # none of them is stored
    kit.events.add = _committing(kit)  # type: ignore[method-assign]
    reader: Any = FakeReader()
    assert await Copies(kit.ledger, kit.evidence, reader).make(message.id) is CopyVerdict.LOST
