"""The line that tells a recipient how to end a tenant's marketing.

It belongs to the channel: the carrier or the operator behind it reads the replies. It is part of
the text from before the cut into segments, so that it is counted and never pushed out.
Pure: nothing here knows channels.
"""

from __future__ import annotations

from compliance.signature import MAINLAND, has_brackets

MAINLAND_LINE = "拒收请回复R"
MAX_LINE = 60  # characters


def line_for(configured: str | None, country: int) -> str:
    """The line of a channel for marketing to a country, "" for none.

    What the operator wrote holds for every country, also "" for a carrier that adds its own.
    Unwritten it is the usual one for the mainland, where marketing without it is unlawful, and
    none elsewhere.
    """
    if configured is not None:
        return configured
    return MAINLAND_LINE if country == MAINLAND else ""


def with_line(text: str, line: str) -> str:
    """The text with the line behind it, unless it ends with it already.

    A line that begins like a word is set off by a space; a Chinese one needs none.
    """
    if not line or text.rstrip().endswith(line):
        return text
    gap = " " if line[0].isascii() and not line[0].isspace() else ""
    return f"{text}{gap}{line}"


def without_line(text: str, line: str) -> str:
    """The text that `with_line` may have put the line behind; itself where it does not end so."""
    if not line or not text.endswith(line):
        return text
    gap = " " if line[0].isascii() and not line[0].isspace() else ""
    return text.removesuffix(line).removesuffix(gap)


def is_line(text: str) -> bool:
    """Whether `text` can be a line: short, printable, without signature brackets; or empty."""
    is_printable = text.isprintable() or not text
    return len(text) <= MAX_LINE and is_printable and not has_brackets(text)
