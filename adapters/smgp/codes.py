"""What a Status in a response means: the standard's table, kept as data, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final


def _load() -> dict[int, dict[str, str]]:
    text = Path(__file__).with_name("status.json").read_text("utf-8")
    return {int(code): row for code, row in json.loads(text)["codes"].items()}


_ROWS: Final = _load()
CLASS_OF: Final = {code: row["class"] for code, row in _ROWS.items()}

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
