"""How fast a carrier lets us: a channel's pace, learnt from throttling answers. Arithmetic only.

    answers of one second ──▶ taken, throttled ──▶ pace x the part that was taken, at least x 0.7;
                                                   and 5 % of what is configured on top

A carrier that takes C segments a second refuses what goes beyond, so the pace comes down to C and
no further, and asks for more every second: C is used in full, and of what is sent some 5 % is
throttled. A carrier that refuses a few per cent by chance, whatever we do, is not answered by
going slower and slower: up to 5 % the steps make up for the cuts, at 10 % half is left. All
processes of an account step up by the same and give up the same part, so they come near to each
other, as TCP's senders do. No throttling answer within the time that an answer takes after a cut
counts for another cut: it was earned before (a congestion epoch).

While nobody throttles there is no pace: the channel's own bucket alone decides. Per process: each
learns its part of the carrier from its own answers. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

EPOCH_S: Final = 1.0
LEAST: Final = 20  # segments that an epoch needs, or it lasts longer
LONGEST_S: Final = 4.0
STALE_S: Final = 60.0
CUT: Final = 0.7  # the deepest cut of one epoch (RELIABILITY section 6)
STEP: Final = 0.05  # of what is configured, up again in a second; all processes together
NOTHING: Final = 0.1  # taken, or less: no step up, the carrier is as good as closed
STEEPEST: Final = 0.35  # of the pace: what is configured may be far from the truth
HEADROOM: Final = 1.25  # over our part of the rate, which is never exact; and over what was taken
FLOOR: Final = 1.0  # segments a second, or this part of what is configured:
FLOOR_SHARE: Final = 0.02  # our part of it: else many processes are above the carrier for good
LONGEST_ANSWER_S: Final = 10.0  # an average may hold answers that never came
BURST_S: Final = 0.05  # so much of the pace may go at once
LOOK_S: Final = 0.01  # nobody looks more often; what is due by then goes together
OTP_AHEAD_S: Final = 0.125  # an eighth of a second's pace is otp's alone
# SMPP 5.0, congestion_state: 80–89 optimum, 90–99 nearing congestion, 100 congested.
OPTIMUM: Final = 80
NEARING: Final = 90
CONGESTED: Final = 100
EASE: Final = 0.95  # of an epoch in which the carrier said that it nears congestion
PAUSE_S: Final = 1.0  # after it said that it is congested


class Throttle:
    """One channel's pace in this process; `limit` is its configured segments per second.

    `pace` is infinite while nobody throttles; `is_free` says so for the path. `share` and
    `limit` are set from outside.
    """

    __slots__ = (
        "_answer_s",
        "_congestion",
        "_next_at",
        "_otp_at",
        "_paused_until",
        "_since",
        "_taken",
        "_throttled",
        "is_free",
        "limit",
        "pace",
        "share",
    )

    def __init__(self, limit: float, now: float) -> None:
        self.pace = math.inf
        self.is_free = True
        self.share = 1.0  # our part of the account's sessions, so that processes step together
        self.limit = limit
        self._since = now  # when the epoch began; ahead of now: what is answered is of the last
        self._taken = 0
        self._throttled = 0
        self._answer_s = 0.0  # how long an answer takes, smoothed
        self._next_at = now  # when the pace lets the next segment go
        self._otp_at = now  # the same for otp, which waits for no other class
        self._paused_until = now
        self._congestion = 0  # the highest of the epoch

    # -- what the answers say --------------------------------------------------------------

    def answered(self, taken: int, throttled: int, answer_s: float, now: float) -> None:
        """A burst of answers: segments taken, segments throttled, how long they took."""
        self._answer_s += (answer_s - self._answer_s) / 8
        if now >= self._since:
            self._taken += taken
            self._throttled += throttled

    def congested(self, state: int, now: float) -> None:
        """The carrier told its congestion_state, 0 to 100."""
        self._congestion = max(self._congestion, state)
        if state >= CONGESTED:
            self._paused_until = max(self._paused_until, now + PAUSE_S)
            self.is_free = False

    def tick(self, now: float) -> None:
        """Close the epoch when it is over; a few times a second."""
        passed_s = now - self._since
        if passed_s > STALE_S:  # nobody looked: what was counted is of now
            self._since = now
        if passed_s < EPOCH_S or passed_s > STALE_S:
            return
        if self._taken + self._throttled < LEAST and passed_s < LONGEST_S and not self._congestion:
            return
        taken, throttled = self._taken / passed_s, self._throttled / passed_s
        before = self.pace
        if throttled:
            self._cut(taken, throttled)
        is_shut = taken < NOTHING * (taken + throttled)
        if self._congestion < OPTIMUM and not is_shut:
            self._rise(passed_s)
        if self._congestion >= NEARING:
            self._ease(taken)
        self.is_free = self.pace == math.inf and now >= max(self._next_at, self._paused_until)
        # After a cut, what is answered within an answer's time was sent before it.
        deaf_s = min(self._answer_s, LONGEST_ANSWER_S) if self.pace < before else 0.0
        self._since = now + deaf_s
        self._taken = self._throttled = self._congestion = 0

    def _cut(self, taken: float, throttled: float) -> None:
        """Down to the part that was taken: of what was allowed, not of what was sent.

        A channel that has little to send hears of one refusal by chance; measured by what it sent
        it would stand at the floor when much comes.
        """
        part = taken / (taken + throttled)
        self.pace = max(min(self.pace, self._most()) * max(CUT, part), self._floor())

    def _rise(self, passed_s: float) -> None:
        step = STEP * self.share * self.limit * passed_s
        self.pace += min(step, STEEPEST * self.pace)
        if self.pace >= self._most():
            self.pace = math.inf  # the bucket is the bound again

    def _ease(self, taken: float) -> None:
        factor = CUT if self._congestion >= CONGESTED else EASE
        self.pace = max(min(self.pace, HEADROOM * taken, self.limit) * factor, self._floor())

    def _most(self) -> float:
        """What we may come to: our part with some room, the whole rate at most."""
        return min(self.limit, HEADROOM * self.share * self.limit)

    def _floor(self) -> float:
        return max(FLOOR, FLOOR_SHARE * self.share * self.limit)

    def told(self) -> float:
        """The pace, our part of what is configured at most: all processes add up to that.

        On its way up it passes our part, which is never exact, by a quarter; and the rate may have
        been configured lower meanwhile.
        """
        return min(self.pace, self.share * self.limit)

    # -- what may go -----------------------------------------------------------------------

    def wait_s(self, now: float, *, is_otp: bool) -> float:
        """Seconds after which the pace may let a segment go; 0.0 = now."""
        if is_otp:
            wait_s = max(self._otp_at, self._paused_until) - OTP_AHEAD_S - now
        else:
            wait_s = max(self._next_at, self._paused_until) - now
        return max(wait_s, LOOK_S) if wait_s > 0.0 else 0.0

    def spend(self, n: int, now: float, *, is_otp: bool) -> None:
        """n segments go. All of them count against the other classes, otp's own against otp: one
        long text at a low pace would keep login codes waiting for seconds."""
        paid_s = n / self.pace
        self._next_at = max(self._next_at, now - BURST_S) + paid_s
        if is_otp:
            self._otp_at = max(self._otp_at, now - BURST_S) + paid_s
