"""Numbers that left the network of their prefix (携号转网), in memory: asked for each message.

    number ─▶ keyed blind index ─▶ IndexMap ─▶ the carrier it lives with, else its prefix's

Only mainland numbers have overrides: elsewhere no carrier is known by prefix. Only blind indexes
are kept, never a number. Two numbers share an index once in 10^19 pairs: a hit is believed.
Pure: what changes is brought by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sms.indexmap import IndexMap
from sms.model import CARRIERS, Carrier
from sms.numbers import INVALID, BadNumber, Number, parse_number

# Where a number can have gone.
NETWORKS: Final = (Carrier.CM, Carrier.CU, Carrier.CT, Carrier.CB)
_MAINLAND: Final = 86
_ELSEWHERE: Final = BadNumber(
    INVALID, "only mainland numbers (+86) can have a carrier of their own; leave this one out"
)
_TAGS = {carrier: tag for tag, carrier in enumerate(CARRIERS)}


def _no_index(_: str) -> int:
    return 0


def parse_portable(text: str) -> str | BadNumber:
    """The digits of a number that can be ported, or why it cannot: only the mainland's can."""
    number = parse_number(text)
    if isinstance(number, BadNumber):
        return number
    return number.digits if number.country == _MAINLAND else _ELSEWHERE


class Portability:
    """All overrides of the platform, as one process knows them."""

    def __init__(self, index_of: Callable[[str], int] = _no_index) -> None:
        """`index_of(digits)` is the keyed blind index that the overrides were made with."""
        self._index_of = index_of
        self._known = IndexMap()

    @property
    def size(self) -> int:
        """How many numbers have an override."""
        return self._known.size

    def change(self, index: int, carrier: Carrier | None) -> None:
        """The number with this index lives with the carrier; None: with its prefix's again."""
        if carrier is None:
            self._known.pop(index)
        else:
            self._known.put(index, _TAGS[carrier])

    def fill(self, bucket: int, words: bytes) -> None:
        """A whole bucket at once, as `IndexMap.fill` takes it; tags are places in `CARRIERS`."""
        self._known.fill(bucket, words)

    def parse(self, text: str) -> Number | BadNumber:
        """The number behind a text, with the carrier it lives with now."""
        number = parse_number(text)
        if self._known.size and type(number) is Number and number.country == _MAINLAND:
            tag = self._known.get(self._index_of(number.digits))
            if tag is not None:
                number.carrier = CARRIERS[tag]
        return number
