"""What a carrier's code in a submit's answer means: its class, and the outcome of that class.

RELIABILITY section 6 gives the classes; each protocol's folder says as data which code is which,
and a channel may overrule single codes, which is where vendors' own codes belong. The code for
success is no business of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sms.outcomes import Cause, Rejected, Throttled

# class → (cause, our reason); `throttled` stands apart because it is another outcome
_CAUSES: Final[Mapping[str, tuple[Cause, str]]] = {
    "number": (Cause.NUMBER, "recipient.invalid"),
    "ported": (Cause.CHANNEL, "recipient.ported"),
    "content": (Cause.CONTENT, "content.blocked"),
    # a final no that names neither number nor text: resending elsewhere would not help
    "refused": (Cause.CONTENT, "carrier.rejected"),
    "channel": (Cause.CHANNEL, "carrier.system_error"),
    "config": (Cause.CONFIG, "channel.misconfigured"),
    "account": (Cause.CONFIG, "channel.account"),
    "unknown": (Cause.UNKNOWN, "carrier.unknown_code"),
}
THROTTLED: Final = "throttled"
CLASSES: Final = frozenset((*_CAUSES, THROTTLED))
THROTTLE_PAUSE_S: Final = 1.0  # RELIABILITY 6: +1–5 s; the flow doubles it while it repeats


class CodeTable:
    """A standard's classes with one channel's own on top."""

    __slots__ = ("_classes", "_write")

    def __init__(
        self,
        standard: Mapping[int, str],
        overrides: Mapping[int, str],
        write: Callable[[int], str] = str,
    ) -> None:
        """`write` shows a code as the carrier's documents do."""
        self._classes = {**standard, **overrides}
        self._write = write

    def outcome(self, code: int, *, prefix: str = "") -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code`, shown behind `prefix`."""
        shown = f"{prefix}{self._write(code)}"
        name = self._classes.get(code, "unknown")
        if name == THROTTLED:
            return Throttled(THROTTLE_PAUSE_S, shown)
        cause, reason = _CAUSES[name]
        return Rejected(shown, cause, reason)
