"""Everything that happened to a message, in order, from its stored rows.

    accepted, policy ─▶ queued ─▶ [failover] ─▶ attempt 1 ─▶ queued ─▶ attempt 2 ─▶ receipt

Rows are never changed, so each attempt keeps the reason it ended for, whatever became of the
message afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from gateway import holds
from gateway.detours import in_words, told_detour
from gateway.views import rfc3339
from receipts.state import ATTEMPTS, Path
from sms.model import FINAL_STATES, EventRow, Message, State

Step = dict[str, Any]
Names = Callable[[int], str | None]  # of channels by id

ALLOWED = "policy.allowed"
# A message that policy forbids then has no 202, and so no timeline.
_ALLOWED = "number, text, opt-outs, blocked numbers, caps and quota allow it"
_ATTEMPTS = frozenset(int(path) for path in ATTEMPTS)
_OUT_OF_QUEUE = frozenset({Path.QUEUE_FAILED, Path.EXPIRED, Path.REJECTED, Path.CANCELED})


def blank_step(at: float, step: str, status: State) -> Step:
    """A step with every field that steps have; `at` is Unix seconds."""
    return {
        "at": rfc3339(at),
        "step": step,
        "status": status.value,
        "channel": None,
        "segment": None,
        "carrier_id": None,
        "code": None,
        "reason": None,
        "ms": None,
        "attempt": None,
        "follows": None,
    }


def timeline(message: Message, rows: Sequence[EventRow], channel_name: Names) -> list[Step]:
    """The steps, oldest first.

    `step` is accepted, policy (what allowed it then), queued (a wait in the lane of a channel
    ended, `ms` = how long, `code` = what most of it was waited for), failover (it goes over another
    channel than its first, `code` says why), attempt (`ms` = until the answer), receipt (`ms` =
    since that segment's attempt), or else the status that the row brought, also what policy says
    later; `ms` of an end without an attempt is the wait before it. `status` beside it is where the
    segment or message stood then.
    """
    story = _Story(channel_name, max(message.created_at, message.send_at or 0.0))
    for row in rows:
        story.tell(row)
    story.end()
    accepted = blank_step(message.created_at, "accepted", State.ACCEPTED)
    allowed = blank_step(message.created_at, "policy", State.ACCEPTED)
    allowed |= {"code": ALLOWED, "detail": f"class {message.message_class}: {_ALLOWED}"}
    return [accepted, allowed, *story.steps]


class _Story:
    """Rows in, steps out; mutable, one for each timeline."""

    def __init__(self, channel_name: Names, waits_since: float) -> None:
        """`waits_since`: when it was to be sent first, Unix seconds."""
        self.steps: list[Step] = []
        self._waits_since: float | None = waits_since  # None = it does not
        self._name = channel_name
        self._parts: list[EventRow] = []  # a long message's segments, until the row that ends them
        self._attempts = 0
        self._of_copy: dict[int, int] = {}  # the newest attempt of each copy
        # By segment and copy: when it was taken, under which id, by which attempt.
        self._taken: dict[tuple[int, int], tuple[float, str | None, int | None]] = {}

    def tell(self, row: EventRow) -> None:
        """The next row."""
        since = self._waits_since
        self._waits_since = _waits_after(row, since)
        if row.path in _ATTEMPTS:
            self._ended(row)
        elif row.path == Path.NOTE and row.carrier_id is not None:
            self._parts.append(row)
        else:
            self.end()
            is_late = row.path == Path.SUBMITTED_LATE
            newest = self._of_copy.get(row.copy)
            self.steps.append(self._attempt(row, newest) if is_late else self._other(row))
            if row.path in _OUT_OF_QUEUE and since is not None:
                self.steps[-1]["ms"] = max(0, round((row.at - since) * 1000))

    def end(self) -> None:
        """The segments that no row has ended: they came late, to an attempt of before."""
        self.steps += [self._attempt(part, self._of_copy.get(part.copy)) for part in self._parts]
        self._parts = []

    def _ended(self, row: EventRow) -> None:
        """An attempt, all its segments answered; those on another channel were another's."""
        own = [part for part in self._parts if (part.channel, part.copy) == (row.channel, row.copy)]
        self._parts = [part for part in self._parts if part not in own]
        self.end()
        self._attempts += 1
        number = self._of_copy[row.copy] = self._attempts
        self.steps += self._before(row, number)
        self.steps += [self._attempt(one, number) for one in (*own, row)]

    def _before(self, row: EventRow, number: int) -> list[Step]:
        """The wait in the lane, and why it was that lane, where the row tells of them."""
        if len(row.times) < 2:
            return []
        waited_ms, answer_ms, *_ = row.times
        left_at = row.at - answer_ms / 1000
        queued = blank_step(left_at, "queued", State.QUEUED)
        queued["channel"] = self._channel(row)
        queued["ms"], queued["attempt"] = waited_ms, number
        held = holds.told_holds(row.times)
        if held:
            queued["code"] = max(held, key=itemgetter(1))[0].name.lower()
            queued["detail"] = holds.in_words(held)
        detour = told_detour(row.times)
        if detour is None:
            return [queued]
        cause, primary = detour
        turned = blank_step(left_at, "failover", State.QUEUED)
        turned["channel"], turned["attempt"] = self._channel(row), number
        turned["code"] = cause or None
        words = in_words(cause, self._name(primary))
        turned["detail"] = f"over {turned['channel']} {words}"
        return [queued, turned]

    def _attempt(self, row: EventRow, number: int | None) -> Step:
        self._taken[row.segment or 0, row.copy] = row.at, row.carrier_id, number
        step = self._step(row, "attempt")
        step["attempt"] = number
        step["follows"] = number - 1 if number is not None and number > 1 else None
        step["ms"] = row.times[1] if len(row.times) >= 2 else None
        return step

    def _other(self, row: EventRow) -> Step:
        """A receipt, told by its segment and its end, or any other change."""
        if row.segment is None or row.status not in FINAL_STATES:
            return self._step(row, row.status.value)
        step = self._step(row, "receipt")
        taken = self._taken.get((row.segment, row.copy))
        if taken is not None:
            sent_at, carrier_id, step["attempt"] = taken
            step["carrier_id"] = row.carrier_id or carrier_id
            step["ms"] = max(0, round((row.at - sent_at) * 1000))
        return step

    def _step(self, row: EventRow, word: str) -> Step:
        step = blank_step(row.at, word, row.status)
        step["channel"] = self._channel(row)
        step["segment"] = row.segment
        step["carrier_id"] = row.carrier_id
        step["code"] = row.code or row.reason
        step["reason"] = row.reason
        return step

    def _channel(self, row: EventRow) -> str | None:
        return self._name(row.channel) if row.channel else None


def _waits_after(row: EventRow, since: float | None) -> float | None:
    """Since when a message waits in a lane once this row is told; None where it does not."""
    if row.path in (Path.REQUEUED, Path.QUEUED):
        return row.at
    return since if row.path in (Path.NOTE, Path.SCHEDULED) else None
