"""How a receiver treats a request: the manners of `make sinks`. No I/O.

request ─▶ Manner.act(how many it took, dice) ─▶ Act ─▶ the receiver does it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, NamedTuple

# Where a redirect leads that must never be followed: a cloud's metadata in several spellings, a
# link-local v6 address, a name for it. `{door}` is a port of ours that would notice.
ELSEWHERE: Final = (
    "http://169.254.169.254/latest/meta-data/iam/",
    "{door}",
    "http://2852039166/",
    "http://[::ffff:169.254.169.254]/",
    "{door}/followed?really=1",
    "http://[fe80::1]/",
    "http://metadata.google.internal/",
    "//169.254.169.254/",
)
MOVED: Final = (301, 302, 303, 307, 308)


class Cut(StrEnum):
    """When the connection is closed by the receiver."""

    NEVER = "never"
    ASKED = "asked"  # the request is there, nothing was answered
    ANSWERING = "answering"  # inside the body of a 200


class Act(NamedTuple):
    """What is done with one request. The events count as taken where it is answered 2xx."""

    status: int | None = 200  # None: never answered
    delay_s: float = 0.0
    cut: Cut = Cut.NEVER
    location: str = ""  # of a redirect

    @property
    def is_taken(self) -> bool:
        """Whether a receiver that acts so has the events afterwards."""
        return self.status is not None and 200 <= self.status < 300 and self.cut is not Cut.ASKED


@dataclass(frozen=True, slots=True)
class Manner:
    """One way of receiving; everything left out is done well."""

    name: str = "healthy"
    fail_share: float = 0.0  # of the requests, answered with one of `statuses`
    statuses: tuple[int, ...] = (500,)
    hangs: bool = False  # takes requests and never answers
    delay_s: float = 0.0  # before each answer
    cut_asked: float = 0.0  # share whose connection is closed before the answer
    cut_answering: float = 0.0  # … inside the answer
    gone_after: int | None = None  # requests taken; from then on 410
    locations: tuple[str, ...] = ()  # every request is redirected to one of them, by turns

    def act(self, taken: int, dice: Random) -> Act:
        """What to do with the next request, `taken` requests having been taken before."""
        if self.hangs:
            return Act(None)
        if self.gone_after is not None and taken >= self.gone_after:
            return Act(410)
        if self.locations:
            return Act(dice.choice(MOVED), location=dice.choice(self.locations))
        roll = dice.random()
        if roll < self.fail_share:
            return Act(dice.choice(self.statuses), self.delay_s)
        return Act(200, self.delay_s, self._cut(roll - self.fail_share))

    def _cut(self, roll: float) -> Cut:
        if roll < self.cut_asked:
            return Cut.ASKED
        return Cut.ANSWERING if roll < self.cut_asked + self.cut_answering else Cut.NEVER
