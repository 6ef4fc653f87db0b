"""What a Result in a response means: the standard's table, kept as data, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.codes import THROTTLE_PAUSE_S, CodeTable
from sms.outcomes import Rejected, Throttled


def _load() -> dict[int, dict[str, str]]:
    text = Path(__file__).with_name("result.json").read_text("utf-8")
    return {int(code): row for code, row in json.loads(text)["codes"].items()}


_ROWS: Final = _load()
BAD_SEQUENCE: Final = 9
_CLASS_OF: Final = {code: row["class"] for code, row in _ROWS.items()}

# What an operator can do about a login that was refused.
_LOGIN_REMEDIES: Final[Mapping[int, str]] = {
    1: "check login_name and the password or its file, and that the carrier knows our address",
    2: "the carrier still holds our last login; it ends by itself",
    3: "too many connections: lower sessions",
    4: "the account may not log in as an SP: ask the carrier for login type 1",
    5: "check login_name, the password and node_id",
    11: "the carrier is busy: it will be tried again",
}
_LOGIN_REMEDY: Final = "ask the carrier what this Result means for a login"


def login_refused(result: int) -> str:
    """Why a BIND was refused, in words with a remedy."""
    name = f" ({_ROWS[result]['name']})" if result in _ROWS else ""
    return f"bind refused with {result}{name}, {_LOGIN_REMEDIES.get(result, _LOGIN_REMEDY)}"


class ResultTable(CodeTable):
    """The standard's classes with one channel's own on top."""

    __slots__ = ()

    def __init__(self, overrides: Mapping[int, str]) -> None:
        super().__init__(_CLASS_OF, overrides)

    def answered(self, code: int, *, is_first: bool) -> Rejected | Throttled:
        """The outcome of a submit that was answered with `code` (not 0).

        `is_first`: it was not put back before. Then a refused sequence number only sends
        it again, with a new one: the carrier refused the number, not the message.
        """
        if code == BAD_SEQUENCE and is_first:
            return Throttled(THROTTLE_PAUSE_S, str(code))
        return self.outcome(code)
