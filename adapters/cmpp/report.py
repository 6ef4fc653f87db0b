"""What a DELIVER holds: a status report, or a text from a phone.

    Msg_Id 8 │ Stat 7 │ Submit_time 10 │ Done_time 10 │ Dest_terminal_Id n │ SMSC_sequence 4

The destination takes 21 octets in 2.0 and 32 in 3.0, but carriers send the short form in 3.0, too:
its size is what the content leaves for it, whatever the version.
"""

from __future__ import annotations

from typing import Final

from adapters.cmpp.pdu import FMT_BINARY, FMT_GBK, FMT_UCS2, ID_SIZE, unpad
from sms.concatenation import utf16

_STAT_END: Final = ID_SIZE + 7
_DEST_START: Final = _STAT_END + 20
_SEQUENCE_SIZE: Final = 4
MAINLAND_DIGITS: Final = 11


def parse_report(content: bytes) -> tuple[str, str, str] | None:
    """Read a status report: (id as 16 hexadecimal digits, Stat, number); None when it says nothing.

    The number is "" when the content is too short to hold one.
    """
    state = unpad(content[ID_SIZE:_STAT_END])
    if len(content) < _STAT_END or not state:
        return None
    number = unpad(content[_DEST_START : max(_DEST_START, len(content) - _SEQUENCE_SIZE)])
    return content[:ID_SIZE].hex(), state, e164(number)


def e164(number: str) -> str:
    """A number of the carrier's as E.164 digits: without `+`, a mainland one with 86."""
    digits = number.removeprefix("+")
    if len(digits) == MAINLAND_DIGITS and digits.startswith("1"):
        return f"86{digits}"
    return digits


def parse_text(content: bytes, udhi: int, fmt: int) -> str:
    """The text of a DELIVER from a phone, its user data header removed.

    Never an error, since an odd character must not cost an opt-out.
    """
    if udhi & 1 and content:
        content = content[1 + content[0] :]
    if fmt == FMT_UCS2:
        return utf16(content)
    if fmt == FMT_BINARY:
        return content.decode("latin-1")
    if fmt == FMT_GBK or not content.isascii():  # GBK comes under other numbers, too
        return content.decode("gb18030", "replace")
    return content.decode("ascii")
