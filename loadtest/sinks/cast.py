"""Who is there: the sinks of `make sinks`, what each does, and how its tenant mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from loadtest.sinks.manners import ELSEWHERE, Manner

SLOW_S: Final = 14.0  # of the 15 s that an answer may take
EVERYTHING: Final = ("message.*", "inbound.received")


class Remedy(StrEnum):
    """How its tenant gets what is missing, once the sink is well; schedules of hours are no help.

    What is tried again after 5 min and later is not waited for.
    """

    NONE = "none needed"
    EVENTS = "each missing event by id"
    RANGE = "switched off and on, replay of the time"
    DEAD = "switched off and on, replay of all dead letters"
    GONE = "switched on again, replay of the time"


@dataclass(frozen=True, slots=True)
class Part:
    """One sink."""

    name: str
    manner: Manner = field(default_factory=Manner)
    later: Manner = field(default_factory=Manner)  # its manner when the traffic has ended
    remedy: Remedy = Remedy.NONE
    events: tuple[str, ...] = EVERYTHING
    is_batch: bool = False
    full_number: bool = False
    rotates: bool = False  # its secret is changed half-way

    def body(self, url: str) -> dict[str, Any]:
        """Of the POST that makes its endpoint."""
        return {
            "url": url,
            "events": list(self.events),
            "batch": self.is_batch,
            "full_number": self.full_number,
        }


def cast(door: str) -> tuple[Part, ...]:
    """All of them; `door` is a URL where nobody must ever knock."""
    fails = Manner("fails 30 %", fail_share=0.3, statuses=(500, 502, 503, 429))
    locations = tuple(place.format(door=door) for place in ELSEWHERE)
    return (
        Part("single", rotates=True),
        Part("batched", is_batch=True, rotates=True),
        Part("finals", events=("message.delivered", "message.undelivered"), full_number=True),
        Part("fails", fails, fails, Remedy.EVENTS, rotates=True),
        Part("fails-batched", fails, fails, Remedy.DEAD, is_batch=True),
        Part("hangs", Manner("hangs", hangs=True), remedy=Remedy.RANGE),
        Part("redirects", Manner("redirects", locations=locations), remedy=Remedy.DEAD),
        Part(
            "cuts",
            Manner("cuts the connection", cut_asked=0.2, cut_answering=0.3),
            remedy=Remedy.EVENTS,
        ),
        Part("gone", Manner("410 after 30", gone_after=30), remedy=Remedy.GONE),
        Part("slow", Manner("200 after 14 s", delay_s=SLOW_S), remedy=Remedy.EVENTS, is_batch=True),
    )


# What would only be waited for is shorter; what is judged does not change by it.
SETTINGS: Final[Mapping[str, str]] = {
    "webhook_changes_per_min": "10000",
    "lease_s": "6",
    "lease_renew_s": "1",
    "takeover_grace_s": "1",
}
