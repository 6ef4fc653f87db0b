"""What a Status in a response means: the standard's table, kept as data, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.codes import THROTTLE_PAUSE_S, CodeTable
from sms.outcomes import Rejected, Throttled


def _load() -> dict[int, dict[str, str]]:
    text = Path(__file__).with_name("status.json").read_text("utf-8")
    return {int(code): row for code, row in json.loads(text)["codes"].items()}


_ROWS: Final = _load()
BAD_SEQUENCE: Final = 12
_CLASS_OF: Final = {code: row["class"] for code, row in _ROWS.items()}

_CREDENTIALS: Final = "check client_id and shared_secret or its file"
# What an operator can do about a login that was refused.
_LOGIN_REMEDIES: Final[Mapping[int, str]] = {
    1: "the carrier is busy: it will be tried again",
    2: "too many connections: lower sessions",
    3: f"{_CREDENTIALS} (SMSGate's word for a wrong password)",
    20: "the carrier does not know our address: tell it which one we have",
    21: f"{_CREDENTIALS}; for an id of less than 8 characters try pad_client_id",
    22: "the version is too high: lower client_version",
    76: "the account has expired: ask the carrier",
}
_LOGIN_REMEDY: Final = "ask the carrier what this Status means for a login, and which login_mode"


def login_refused(status: int) -> str:
    """Why a Login was refused, in words with a remedy."""
    name = f" ({_ROWS[status]['name']})" if status in _ROWS else ""
    return f"login refused with {status}{name}, {_LOGIN_REMEDIES.get(status, _LOGIN_REMEDY)}"


class StatusTable(CodeTable):
    """The standard's classes with one channel's own on top."""

    __slots__ = ()

    def __init__(self, overrides: Mapping[int, str]) -> None:
        super().__init__(_CLASS_OF, overrides)

    def answered(self, code: int, *, is_first: bool) -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code` (not 0).

        `is_first`: it was not put back before. Then a duplicate SequenceID only sends
        it again, with a new one: the carrier refused the number, not the message.
        """
        if code == BAD_SEQUENCE and is_first:
            return Throttled(THROTTLE_PAUSE_S, str(code))
        return self.outcome(code)
