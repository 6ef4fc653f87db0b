"""Our own word for one attempt of a message, which vendors that can echo it are given: `msg_…-1`.

Another attempt has another word, a second copy too. What never left is no attempt: its number is
used again, and nobody was told its word.
"""

from __future__ import annotations

from sms import ids

_PREFIX = "msg"
_MAX_ATTEMPT = 0xFFFF  # what the attempt journal holds


def reference(message_id: int, attempt: int) -> str:
    """The word; it holds neither number nor text."""
    return f"{ids.to_text(_PREFIX, message_id)}-{attempt}"


def parse_reference(text: str) -> tuple[int, int] | None:
    """(message id, attempt) again; None when it is not a word of ours."""
    head, dash, digits = text.partition("-")
    message_id = ids.from_text(_PREFIX, head)
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 5 and digits[0] != "0"
    if message_id is None or not dash or not is_number:
        return None
    attempt = int(digits)
    return (message_id, attempt) if attempt <= _MAX_ATTEMPT else None
