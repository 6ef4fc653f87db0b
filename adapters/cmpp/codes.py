"""What a Status means for a login; for a submit's Result `sms.codes` says it.

Carriers' own numbers from 14 on are mapped by the channel (`status_classes` in its settings).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sms.codes import AnswerCodes

_LOGINS: Final[Mapping[int, str]] = {
    1: "message structure: check the version (cmpp2 or cmpp3) with the carrier",
    2: "illegal source address: check source_addr, and that the carrier knows our address",
    3: "authentication failed: check source_addr and shared_secret, and this machine's clock",
    4: "version too high: use the protocol version that the carrier speaks (cmpp2)",
}
_LOGIN_REMEDY: Final = (
    "often too many sessions, or an address the carrier does not let in: ask it what this means"
)


class ResultTable(AnswerCodes):
    """The standard's classes with one channel's own before them."""

    __slots__ = ()

    def __init__(self, own: Mapping[int, str] | None = None) -> None:
        super().__init__("cmpp", own)


def login_refused(status: int) -> str:
    """Why a CONNECT was refused, in words with a remedy."""
    return f"login refused with status {status}: {_LOGINS.get(status, _LOGIN_REMEDY)}"
