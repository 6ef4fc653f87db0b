"""The content of a DELIVER that is a status report.

    Msg_Id 8 │ Stat 7 │ Submit_time 10 │ Done_time 10 │ Dest_terminal_Id n │ SMSC_sequence 4

The destination takes 21 octets in 2.0 and 32 in 3.0, but carriers send the short form in 3.0, too:
its size is what the content leaves for it, whatever the version.
"""

from __future__ import annotations

from typing import Final

from adapters.cmpp.pdu import ID_SIZE, unpad
from adapters.mainland import e164

_STAT_END: Final = ID_SIZE + 7
_DEST_START: Final = _STAT_END + 20
_SEQUENCE_SIZE: Final = 4


def parse_report(content: bytes) -> tuple[str, str, str] | None:
    """Read a status report: (id as 16 hexadecimal digits, Stat, number); None when it says nothing.

    The number is "" when the content is too short to hold one.
    """
    state = unpad(content[ID_SIZE:_STAT_END])
    if len(content) < _STAT_END or not state:
        return None
    number = unpad(content[_DEST_START : max(_DEST_START, len(content) - _SEQUENCE_SIZE)])
    return content[:ID_SIZE].hex(), state, e164(number)
