"""What a Status means for a login; for a submit's answer `sms.codes` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sms.codes import AnswerCodes, remark_of

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
    remark = remark_of("smgp", status)
    name = f" ({remark})" if remark else ""
    return f"login refused with {status}{name}, {_LOGIN_REMEDIES.get(status, _LOGIN_REMEDY)}"


class StatusTable(AnswerCodes):
    """The standard's classes with one channel's own before them."""

    __slots__ = ()

    def __init__(self, own: Mapping[int, str] | None = None) -> None:
        super().__init__("smgp", own)
