"""The body of an SMGP report: text round ten binary octets.

    id:│10 raw BCD octets│ sub:001 dlvrd:001 submit date:… done date:… stat:DELIVRD err:000 text:…

The id may hold any octet, so ten are taken behind `id:` before anything is searched; the rest is
read by its markers, not by offsets: carriers write `submit_date`, `Submit date`, `done date: ` with
blanks, `Text` or `txt`, and MsgLength may be too small. Some write the id as 20 digits.
"""

from __future__ import annotations

import re
from typing import Final

from adapters.smgp.pdu import MSG_ID_SIZE

# The word ends where the next key begins, where a carrier leaves the blank out.
_STAT = re.compile(
    rb"stat\s{0,4}:\s{0,4}([!-~]{1,20}?)(?=err\s{0,4}:|[^!-~]|\Z)", re.IGNORECASE
).search
_ERR = re.compile(rb"err\s{0,4}:\s{0,4}([!-~]{1,8})", re.IGNORECASE).search
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_TEXT_ID_SIZE: Final = 2 * MSG_ID_SIZE
_BODY_MAXIMUM: Final = 512


def parse_report(content: bytes, outer: bytes) -> tuple[str, str, str] | None:
    """(id as 20 hexadecimal digits, state word, error) of a report; None without a state.

    `outer` is the MsgID of the Deliver: the report's own or the submit's, by implementation, so it
    counts only where the body names none.
    """
    carrier_id, start = _parse_id(content[:_BODY_MAXIMUM])
    stat = _STAT(content, start, _BODY_MAXIMUM)
    if stat is None:
        return None
    word = stat.group(1).decode("latin-1")
    err = _ERR(content, stat.end(), _BODY_MAXIMUM) or _ERR(content, start, stat.start())
    error = "" if err is None else err.group(1).decode("latin-1")
    return carrier_id or outer.hex(), word, error


def _parse_id(content: bytes) -> tuple[str, int]:
    """The id and where the rest begins; "" when the body names none."""
    mark = content.lower().find(b"id:", 0, 8)
    if mark < 0:
        return "", 0
    start = mark + 3
    end = start + MSG_ID_SIZE
    text_end = start + _TEXT_ID_SIZE
    is_digits = _HEX.issuperset(content[start:text_end]) and len(content) >= text_end
    if is_digits and not _is_sub(content, end) and _is_sub(content, text_end):
        return content[start:text_end].decode("ascii").lower(), text_end
    if len(content) < end:
        return "", start
    return content[start:end].hex(), end


def _is_sub(content: bytes, position: int) -> bool:
    return content[position : position + 8].lstrip().lower().startswith(b"sub")
