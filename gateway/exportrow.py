"""One line of an exported send log: as CSV for a table, as JSON for a program.

A cell that a spreadsheet would take for a formula gets an apostrophe in front: a tenant's
`client_ref` and a carrier's code are somebody else's words. A number has no `+` in CSV for the
same reason; in JSON it is as the API writes it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.views import mask_number, rfc3339, whole_number
from sms.ids import to_text
from sms.model import Message

COLUMNS: Final = (
    "id",
    "client_ref",
    "tenant",
    "class",
    "to",
    "carrier",
    "encoding",
    "segments",
    "status",
    "reason",
    "carrier_code",
    "channel",
    "duplicate_risk",
    "accepted_at",
    "send_at",
    "submitted_at",
    "ended_at",
)
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones are read alike
_BREAKS: Final = ("\t", "\r", "\n")
Row = Mapping[str, Any]


def row_of(
    message: Message, tenant: str, channel: str | None, *, is_unmasked: bool = False
) -> dict[str, Any]:
    """The columns of a folded message, JSON values; times in UTC with milliseconds."""
    number = whole_number if is_unmasked else mask_number
    return {
        "id": to_text("msg", message.id),
        "client_ref": message.client_ref,
        "tenant": tenant,
        "class": message.message_class.value,
        "to": number(message.number),
        "carrier": message.carrier.value,
        "encoding": message.encoding.value,
        "segments": len(message.texts),
        "status": message.state.value,
        "reason": message.reason,
        "carrier_code": message.carrier_code,
        "channel": channel,
        "duplicate_risk": message.duplicate_risk,
        "accepted_at": rfc3339(message.created_at),
        "send_at": _moment(message.send_at),
        "submitted_at": _moment(message.submitted_at),
        "ended_at": _moment(message.final_at),
    }


def _moment(unix_s: float | None) -> str | None:
    return None if unix_s is None else rfc3339(unix_s)


def csv_head() -> str:
    """The line with the columns' names."""
    return _lines([COLUMNS])


def csv_rows(rows: Iterable[Row]) -> str:
    """Lines as RFC 4180 has them; absent values are empty cells."""
    return _lines([safe_cell(name, row[name]) for name in COLUMNS] for row in rows)


def json_rows(rows: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def safe_cell(column: str, value: object) -> str:
    """A value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if column == "to":
        text = text.removeprefix("+")
    # Blanks in front do not save it: some spreadsheets cut them off.
    is_formula = text.startswith(_BREAKS) or text.lstrip().startswith(_FORMULA)
    return f"'{text}" if is_formula else text


def _lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
