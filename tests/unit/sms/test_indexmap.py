"""The compact map, against a dict."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from sms.indexmap import BUCKET_SHIFT, TAG_BITS, IndexMap

# Few buckets, so that values meet in them; and the ends of the range.
VALUES = st.one_of(
    st.integers(-5, 5),
    st.integers(-2, 2).map(lambda n: n << BUCKET_SHIFT),
    st.sampled_from([-(1 << 63), (1 << 63) - 1, (1 << 61) - 1, 1 << 61, -(1 << 61)]),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
TAGS = st.one_of(st.none(), st.integers(0, 7))


@given(st.lists(st.tuples(VALUES, TAGS)))
def test_it_is_a_map(steps: list[tuple[int, int | None]]) -> None:
    compact, plain = IndexMap(), dict[int, int]()
    for value, tag in steps:
        before = plain.get(value)
        if tag is None:
            assert compact.pop(value) == before
            plain.pop(value, None)
        else:
            assert compact.put(value, tag) == before
            plain[value] = tag
        assert compact.size == len(plain)
    for value, _ in steps:
        assert compact.get(value) == plain.get(value)


@given(st.dictionaries(VALUES, st.integers(0, 7)), st.lists(st.tuples(VALUES, TAGS)))
def test_buckets_filled_as_a_store_has_them_are_the_same_map(
    stored: dict[int, int], later: list[tuple[int, int | None]]
) -> None:
    buckets: dict[int, bytes] = {}
    for value, tag in sorted(stored.items()):
        word = struct.pack(">Q", (value << TAG_BITS | tag) & (1 << 64) - 1)
        bucket = value >> BUCKET_SHIFT
        buckets[bucket] = buckets.get(bucket, b"") + word
    compact, plain = IndexMap(), dict(stored)
    for _ in range(2):  # a second time takes the place of the first
        for bucket, words in buckets.items():
            compact.fill(bucket, words)
    assert compact.size == len(plain)
    for value, new in later:
        if new is None:
            assert compact.pop(value) == plain.pop(value, None)
        else:
            assert compact.put(value, new) == plain.get(value)
            plain[value] = new
    assert compact.size == len(plain)
    assert all(compact.get(value) == tag for value, tag in plain.items())
    assert all(compact.get(value) == plain.get(value) for value, _ in later)
