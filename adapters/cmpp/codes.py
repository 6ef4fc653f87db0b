"""What a Result means for a submit and a Status for a login: tables, kept as data, read once.

`result_codes.json` says which Result is in which class of `adapters.codes`; carriers' own numbers
from 14 on are mapped by the channel (`status_classes` in its settings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.codes import CodeTable

_DATA: Final = json.loads(Path(__file__).with_name("result_codes.json").read_text(encoding="utf-8"))
_TABLE: Final = {int(code): row["class"] for code, row in _DATA["results"].items()}
_LOGINS: Final = {int(code): text for code, text in _DATA["logins"].items()}
_LOGIN_REMEDY: Final = (
    "often too many sessions, or an address the carrier does not let in: ask it what this means"
)


class ResultTable(CodeTable):
    """The standard's classes with one channel's own on top."""

    __slots__ = ()

    def __init__(self, overrides: Mapping[int, str] | None = None) -> None:
        super().__init__(_TABLE, overrides or {})


def login_refused(status: int) -> str:
    """Why a CONNECT was refused, in words with a remedy."""
    return f"login refused with status {status}: {_LOGINS.get(status, _LOGIN_REMEDY)}"
