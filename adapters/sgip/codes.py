"""What a Result means for a login; for a submit's answer `sms.codes` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sms.codes import AnswerCodes, remark_of

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
    remark = remark_of("sgip", result)
    name = f" ({remark})" if remark else ""
    return f"bind refused with {result}{name}, {_LOGIN_REMEDIES.get(result, _LOGIN_REMEDY)}"


class ResultTable(AnswerCodes):
    """The standard's classes with one channel's own before them."""

    __slots__ = ()

    def __init__(self, own: Mapping[int, str] | None = None) -> None:
        super().__init__("sgip", own)
