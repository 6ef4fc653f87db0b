"""What policy says of one message: at accept, and again just before it leaves.

    accept    refusal ─▶ 422          goes_at ─▶ later than now: `scheduled`
    dispatch  verdict ─▶ rejected, put off to its hours, or None: it may go

Asked only for the classes in `watched`: marketing always, otp and transactional while somebody
is suppressed for them. An ordinary otp so pays one look into a set. Pure: the caller brings the
time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from compliance.hours import Hours
from compliance.signature import MAINLAND
from compliance.suppressions import Suppressions, unkeyed_index
from sms.model import Held, Message, MessageClass

QUIET_HOURS: Final = "policy.quiet_hours"
_MARKETING = MessageClass.MARKETING


class Verdict(NamedTuple):
    """Why a message may not leave now; `until` = when it may (Unix seconds), None = never."""

    reason: str
    until: float | None = None


class SendingPolicy:
    """The hours of marketing and the suppression list, as one process knows them."""

    def __init__(
        self, hours: Hours | None = None, suppressions: Suppressions | None = None
    ) -> None:
        self._hours = Hours() if hours is None else hours
        self._suppressions = Suppressions(unkeyed_index) if suppressions is None else suppressions
        self.watched = {_MARKETING}  # classes that `refusal` or `verdict` may stop
        self._watch()

    def suppress(
        self,
        tenant: int,
        index: int,
        classes: Collection[MessageClass],
        why: Held = Held.ASKED,
    ) -> None:
        """Take over one entry of the suppression list as it stands now; no classes: removed."""
        self._suppressions.change(tenant, index, classes, why)
        self._watch()

    def _watch(self) -> None:
        for message_class in MessageClass:
            if message_class is _MARKETING or self._suppressions.has_any(message_class):
                self.watched.add(message_class)
            else:
                self.watched.discard(message_class)

    def suppressed(self, message_class: MessageClass) -> int:
        """How many entries hold for a class."""
        return self._suppressions.size(message_class)

    def refusal(self, tenant: int, message_class: MessageClass, number: str) -> str | None:
        """The code that says why this number may not be sent to; None when it may."""
        return self._suppressions.refusal(tenant, message_class, number)

    def goes_at(self, message_class: MessageClass, country: int, unix: float) -> float:
        """The first moment from `unix` on at which such a message may go."""
        if message_class is not _MARKETING or country != MAINLAND:
            return unix
        return self._hours.next_open(unix)

    def verdict(self, message: Message, unix: float) -> Verdict | None:
        """Whether something keeps an accepted message back now; None = it may leave."""
        reason = self.refusal(message.tenant, message.message_class, message.number)
        if reason is not None:
            return Verdict(reason)
        until = self.goes_at(message.message_class, message.country, unix)
        return None if until <= unix else Verdict(QUIET_HOURS, until)
