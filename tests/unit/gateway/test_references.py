"""References of long texts: none comes again soon to one number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway import references
from gateway.references import References


@given(st.integers(0, 0xFFFF), st.lists(st.sampled_from(["1", "2", "3"]), max_size=300))
def test_a_number_sees_all_of_8_bits_before_one_again(start, others):
    """Whatever goes to other numbers between."""
    made = References(start)
    seen = []
    for n in range(256):
        seen.append(made.following("1069", "8613800138000") & 0xFF)
        for other in others[n : n + 2]:
            made.following("1069", other)
    assert len(set(seen)) == 256


def test_what_is_kept_is_bounded_and_the_newest(monkeypatch):
    monkeypatch.setattr(references, "KEPT", 2)
    made = References(0xFFFF)
    first = made.following("s", "1")
    made.following("s", "2")
    assert made.following("s", "1") == first + 1
    made.following("s", "3")  # 2 is forgotten
    assert len(made._last) == 2
    assert made.following("s", "1") == first + 2
    assert all(0 <= made.following("s", str(n)) <= 0xFFFF for n in range(10))
