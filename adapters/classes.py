"""What a code in a submit's answer means, in classes that every protocol's own table uses.

RELIABILITY section 6 says what follows from each; a protocol's folder says, as data, which code is
which; a channel may overrule single codes (`status_classes` in its settings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sms.outcomes import Cause, Rejected, Throttled

# class → (cause, our reason); `throttled` stands apart because it is another outcome
_CAUSES: Final[Mapping[str, tuple[Cause, str]]] = {
    "number": (Cause.NUMBER, "recipient.invalid"),
    "blacklist": (Cause.NUMBER, "recipient.blocked"),
    "handset": (Cause.NUMBER, "recipient.absent"),
    "frequency": (Cause.NUMBER, "carrier.frequency_cap"),
    "expired": (Cause.NUMBER, "carrier.expired"),
    "content": (Cause.CONTENT, "content.blocked"),
    # a final no that names neither number nor text: resending elsewhere would not help
    "refused": (Cause.CONTENT, "carrier.rejected"),
    "ported": (Cause.CHANNEL, "recipient.ported"),
    "channel": (Cause.CHANNEL, "carrier.system_error"),
    "config": (Cause.CONFIG, "channel.misconfigured"),
    "account": (Cause.CONFIG, "channel.account"),
    "unknown": (Cause.UNKNOWN, "carrier.unknown_code"),
}
THROTTLED: Final = "throttled"
CLASSES: Final = frozenset((*_CAUSES, THROTTLED))
THROTTLE_PAUSE_S: Final = 1.0  # RELIABILITY 6: +1–5 s; the flow doubles it while it repeats


def read_codes(path: Path) -> dict[int, dict[str, str]]:
    """A protocol's table: code → its row, with `class` and `name`."""
    codes: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))["codes"]
    return {int(code): row for code, row in codes.items()}


class CodeTable:
    """The protocol's classes with one channel's own on top."""

    __slots__ = ("_classes",)

    def __init__(
        self, rows: Mapping[int, Mapping[str, str]], overrides: Mapping[int, str] | None = None
    ) -> None:
        standard = {code: row["class"] for code, row in rows.items()}
        self._classes = {**standard, **(overrides or {})}

    def outcome(self, code: int) -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code` (not 0)."""
        name = self._classes.get(code, "unknown")
        if name == THROTTLED:
            return Throttled(THROTTLE_PAUSE_S, str(code))
        cause, reason = _CAUSES[name]
        return Rejected(str(code), cause, reason)
