"""What a Result in a response means: the standard's table, kept as data, read once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.classes import read_codes

ROWS: Final = read_codes(Path(__file__).with_name("result.json"))

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
    name = f" ({ROWS[result]['name']})" if result in ROWS else ""
    return f"bind refused with {result}{name}, {_LOGIN_REMEDIES.get(result, _LOGIN_REMEDY)}"
