"""What follows a lost answer: whose word holds for a message.

    platform (by class) < tenant < template < message       the last that says so decides

A template's word is put on the message at accept, for nothing of a template is stored with it; a
tenant's and the platform's are those in force when the answer is lost. RELIABILITY section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from sms.config import Tenant
from sms.model import Message, MessageClass, UncertainPolicy

USUAL: Mapping[MessageClass, UncertainPolicy] = {
    MessageClass.OTP: UncertainPolicy.RESEND,
    MessageClass.TRANSACTIONAL: UncertainPolicy.PROBE_THEN_RESEND,
    MessageClass.MARKETING: UncertainPolicy.HOLD,
}


class CopyVerdict(StrEnum):
    """What became of an operator's wish for a second copy."""

    MADE = "made"  # committed; it leaves as soon as its channel takes it
    DONE = "done"  # there was one before
    KNOWN = "known"  # it is not uncertain: nothing is to be sent again
    POLICY = "policy"  # its policy is another one than `ask`
    LATE = "late"  # its validity is over, or too short for an otp
    ATTEMPTS = "attempts"  # all are used up
    LOST = "lost"  # another process told of the message at that very moment: look again
    ELSEWHERE = "elsewhere"  # on its way between processes


class Prospect(NamedTuple):
    """What an uncertain message waits for; Unix seconds."""

    policy: UncertainPolicy
    until: float  # then its policy decides: its one copy, or, at the receipt deadline, `unknown`
    resend_until: float | None  # an operator may send it again until then; None = he may not


class Policies:
    """What follows a lost answer."""

    def __init__(self, platform: Mapping[MessageClass, UncertainPolicy] = USUAL) -> None:
        self._platform = platform
        self._tenants: Mapping[int, UncertainPolicy] = {}

    def use(self, tenants: Iterable[Tenant]) -> None:
        """Go by a new configuration."""
        self._tenants = {one.id: one.on_uncertain for one in tenants if one.on_uncertain}

    def of(self, message: Message) -> UncertainPolicy:
        """The one that holds for the message now."""
        if message.on_uncertain is not None:
            return UncertainPolicy(message.on_uncertain)
        return self._tenants.get(message.tenant) or self._platform[message.message_class]
