"""What policy still says when a message is about to leave: the last look before a carrier has it.

    about to leave ─▶ stops? ─┬─ no ──▶ claimed, submitted
                              ├─ suppressed since the accept ──▶ rejected
                              └─ its hours are over ───────────▶ put off until they begin

Synchronous; what is stopped in one turn of the loop is acted on together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from compliance.policy import SendingPolicy, Verdict
from sms.model import Message, MessageClass, State

SLICE: Final = 500  # messages stopped in one turn of the loop, some 2 ms
_WAITS = frozenset({State.ACCEPTED, State.QUEUED})


class LastLook:
    """Asks the policy of this process; `policy` and `put_off` are joined by wiring."""

    def __init__(
        self,
        reject: Callable[[Iterable[Message], str], None],
        withdrawn: dict[MessageClass, set[int]],
    ) -> None:
        """`reject` ends messages as rejected, with a reason.

        `withdrawn`: by class, the tenants that have dead messages in lanes.
        """
        self._reject = reject
        self._withdrawn = withdrawn
        self.policy = SendingPolicy()
        # Out of their lanes until a moment each, Unix seconds.
        self.put_off: Callable[[Sequence[tuple[Message, float]]], None] = lambda messages: None
        self.stopped: list[tuple[Message, Verdict]] = []  # not acted on yet

    def stops(self, message: Message, unix: float) -> bool:
        """Whether it may not leave now; then it stands in no lane and `settle` must be called.

        Only for the classes that the policy watches.
        """
        verdict = self.policy.verdict(message, unix)
        if verdict is None:
            return False
        self.stopped.append((message, verdict))
        return True

    def settle(self) -> bool:
        """Act on what was stopped; whether that was a whole slice, so that there may be more."""
        stopped, self.stopped = self.stopped, []
        self._act(stopped)
        return len(stopped) >= SLICE

    def reject_refused(self, messages: Iterable[Message], unix: float) -> None:
        """End those of our waiting messages whose numbers were suppressed meanwhile.

        They stay where they stand until the next sweep of the lanes.
        """
        watched = self.policy.watched
        refused: list[tuple[Message, Verdict]] = []
        for message in messages:
            if message.message_class in watched and message.state in _WAITS:
                verdict = self.policy.verdict(message, unix)
                if verdict is not None and verdict.until is None:
                    refused.append((message, verdict))
                    self._withdrawn.setdefault(message.message_class, set()).add(message.tenant)
        self._act(refused)

    def _act(self, stopped: Sequence[tuple[Message, Verdict]]) -> None:
        later: list[tuple[Message, float]] = []
        never: dict[str, list[Message]] = {}
        for message, verdict in stopped:
            if verdict.until is None:
                never.setdefault(verdict.reason, []).append(message)
            else:
                later.append((message, verdict.until))
        for reason, messages in never.items():
            self._reject(messages, reason)
        if later:
            self.put_off(later)
