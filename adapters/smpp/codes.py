"""What a command_status means for a submit or a login: tables, kept as data, read once.

`command_status.json` says which code is in which class of `adapters.codes`; vendors' 0x400–0x4FF
are mapped by the channel (`status_classes` in its settings). Status 0 is no business of this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.codes import CodeTable
from sms.outcomes import Rejected, Throttled

# What an operator can do about a login that was refused (SMPP 3.4 sections 4.1.2 and 5.1.3).
_LOGIN_REMEDIES: Final[Mapping[int, str]] = {
    0x04: "wrong session state: the carrier may still hold our last session; it ends by itself",
    0x05: "already bound: another program uses this account, or sessions is more than it allows",
    0x08: "the carrier's system has a fault: ask the carrier when it lasts",
    0x0D: "bind failed: check system_id and password, and that the carrier knows our address",
    0x0E: "the password is wrong: mend it or its file",
    0x0F: "the account is unknown: check system_id",
    0x53: "the system type is wrong: check system_type",
    0x58: "too many sessions or requests: lower sessions",
}
_LOGIN_REMEDY: Final = "ask the carrier what this code means for a login"


def _load() -> dict[int, dict[str, str]]:
    text = Path(__file__).with_name("command_status.json").read_text(encoding="utf-8")
    return {int(code, 16): row for code, row in json.loads(text)["codes"].items()}


_ROWS: Final = _load()
_TABLE: Final = {code: row["class"] for code, row in _ROWS.items()}


def login_refused(status: int, *, is_nack: bool = False) -> str:
    """Why a bind was refused, in words with a remedy; `status` is the answer's command_status."""
    kind = "bind refused with generic_nack" if is_nack else "bind refused"
    name = f" ({_ROWS[status]['name']})" if status in _ROWS else ""
    return f"{kind} {status:#010x}{name}, {_LOGIN_REMEDIES.get(status, _LOGIN_REMEDY)}"


def _hexadecimal(status: int) -> str:
    return f"{status:#010x}"


class StatusTable(CodeTable):
    """The standard's classes with one channel's own on top."""

    __slots__ = ()

    def __init__(self, overrides: Mapping[int, str] | None = None) -> None:
        super().__init__(_TABLE, overrides or {}, _hexadecimal)

    def nack(self, status: int) -> Rejected | Throttled:
        """The outcome of a submit that was answered with generic_nack.

        It ends its request as a failure whatever status it carries.
        """
        return self.outcome(status, prefix="nack:")
