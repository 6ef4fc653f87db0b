"""The pumping guard at the door: otp messages are counted before they are accepted.

    admitted ─▶ count ─┬─ too many for the number or its neighbours ─▶ 429 policy.frequency_cap
                       └─ counted ─▶ accept ─┬─ 202
                                             └─ certainly not accepted ─▶ given back

Who makes a gateway send codes to numbers that pay him shows by many codes to one number, or to one
block of numbers. Valkey and this process count blind indexes only. A request with an
Idempotency-Key is counted once, however often it comes; what a retry then gets is `once`'s to say.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.api.problems import FieldError, Problem, retry_after
from ratelimit.otp_caps import Wanted
from ratelimit.otp_guard import Counted, OtpGuard
from sms.config import Tenant
from sms.errors import KeyTaken, OutcomeUnknown
from sms.model import Message, MessageClass

if TYPE_CHECKING:
    from store.intake import IntakeKey

FREQUENCY_CAP = "policy.frequency_cap"
PREFIX_FREE = 4  # last digits that do not count: 10,000 numbers
_TOKEN_BYTES = 6
_CALL = 250  # messages counted together
_OTP = MessageClass.OTP

Tally = Sequence[tuple[Message, Counted]]


class Pumping:
    """The guard as the door asks it; `index_of` is the keyed blind index of a tenant's number."""

    def __init__(self, guard: OtpGuard, index_of: Callable[[int, str], int]) -> None:
        self.guard = guard
        self._index_of = index_of

    def watches(self, tenant: Tenant, message_class: MessageClass) -> bool:
        """Whether such messages are counted at all."""
        return message_class is _OTP and bool(tenant.otp_caps)

    def ask_one(
        self, tenant: Tenant, message: Message, key: IntakeKey | None
    ) -> asyncio.Future[list[Counted]]:
        """Count one message; `key` is the request's, None without an Idempotency-Key."""
        return self.guard.ask([self._wanted(tenant, message.number, key, 0)])

    async def ask(
        self,
        tenant: Tenant,
        messages: Sequence[Message],
        indexes: Sequence[int],
        key: IntakeKey | None,
    ) -> Tally:
        """Count those that are watched; `indexes` are their places in the request."""
        if not tenant.otp_caps:
            return ()
        watched = [
            (message, self._wanted(tenant, message.number, key, index))
            for message, index in zip(messages, indexes, strict=True)
            if message.message_class is _OTP
        ]
        found: list[tuple[Message, Counted]] = []
        for begin in range(0, len(watched), _CALL):
            some = watched[begin : begin + _CALL]
            counted = await self.guard.ask([wanted for _, wanted in some])
            found += zip([message for message, _ in some], counted, strict=True)
        return found

    async def look(self, tenant: Tenant, number: str) -> float:
        """The seconds that an otp message to the number would have to wait; counts nothing."""
        return await self.guard.look(self._wanted(tenant, number, None, 0))

    def give_back(self, tally: Tally, kept: Sequence[Message] = ()) -> None:
        """All but the kept ones certainly were not accepted."""
        ids = {id(message) for message in kept}
        self.guard.give_back([counted for message, counted in tally if id(message) not in ids])

    def _wanted(self, tenant: Tenant, number: str, key: IntakeKey | None, place: int) -> Wanted:
        if key is None:  # of this request alone, however often the call is made
            token = 1 + random.getrandbits(8 * _TOKEN_BYTES)
        else:  # another body is another request
            words = (key.key[:_TOKEN_BYTES], key.digest[:_TOKEN_BYTES])
            token = 1 + place + (int.from_bytes(words[0], "big") ^ int.from_bytes(words[1], "big"))
        index = self._index_of
        return Wanted(
            index(tenant.id, number),
            # the stars keep it apart from every number
            index(tenant.id, number[:-PREFIX_FREE] + "*" * PREFIX_FREE),
            tenant.otp_caps,
            token,
        )


def is_certain(error: BaseException, key: IntakeKey | None) -> bool:
    """Whether a failed accept leaves nothing that counts.

    An earlier request with the same key and body was counted as this one.
    """
    if isinstance(error, KeyTaken):
        return key is None or error.digest != key.digest
    return not isinstance(error, OutcomeUnknown | asyncio.CancelledError)


def refusal(wait_s: float) -> FieldError:
    """What is said of one message over a cap."""
    detail = (
        "`to`: too many otp messages went to this number, or to its neighbours, in the last "
        f"minute, hour or day; the next may go in {math.ceil(wait_s)} s."
    )
    return FieldError("/to", FREQUENCY_CAP, detail)


def problem(wait_s: float) -> Problem:
    """The 429 of a single message."""
    error = refusal(wait_s)
    told = retry_after(FREQUENCY_CAP, error.detail, math.ceil(wait_s))
    told.errors = [error]
    return told
