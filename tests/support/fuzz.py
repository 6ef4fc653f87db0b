"""Fuzzing a parser of the wire: what is fed to it, how often, and what an input may allocate.

`make test` runs 20,000 inputs in each test, `make fuzz` a million (SMSGW_FUZZ_INPUTS). Hypothesis
draws the seed of each BLOCK of them, since it takes 3 ms to draw an input by itself and a parser
0.02 to read it; a failure names its input, and the seed of the run is printed by pytest.
"""

import os
import random
import signal
import tracemalloc
from collections.abc import Callable, Sequence
from types import FrameType

from hypothesis import Phase, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("SMSGW_FUZZ_INPUTS", "20000"))
BLOCK = 100
ALLOCATED_MAXIMUM = 1024 * 1024  # octets per input
LONGEST_NOISE = 300
HANG_S = 30.0  # for one input, which takes a fraction of a millisecond

# Nothing to shrink: one seed is as small as another.
fuzz = settings(
    max_examples=-(-INPUTS // BLOCK),
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
seeds = st.integers(0, 2**64 - 1)


def feed(seed: int, frames: Sequence[bytes], make: Callable[[], Callable[[bytes], object]]) -> None:
    """Give a block of inputs, each to its own reader: it must not raise, hang or hold memory."""
    dice = random.Random(seed)
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for _ in range(BLOCK):
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            _give(make(), _input(dice, frames))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"not read in {HANG_S:g} s")


def _give(read: Callable[[bytes], object], data: bytes) -> None:
    tracemalloc.start(1)
    try:
        read(data)
    except Exception as error:
        raise AssertionError(f"{error!r} on {data.hex()}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= ALLOCATED_MAXIMUM, f"{peak} octets at once on {data.hex()}"


# Beginnings of optional parameters, SMPP's id of a report first: cut where no parser expects it.
_TAILS = (
    b"\x00\x1e\x00\x04ab1\0",
    b"\x02\x0c\x00\x02\x01\x02\x02\x0e\x00\x01\x02\x02\x0f\x00\x01\x01",
    b"\x04\x24\x00\x02ab",
    b"\x04\x27\x00\x00",
    b"\x00\x02\x00\x01\x01",
)


def _with_tail(dice: random.Random, frame: bytes) -> bytes:
    """The frame with stray octets behind it and a length that counts them."""
    tail = dice.choice(_TAILS)
    longer = frame + tail[: dice.randrange(len(tail) + 1)] + dice.randbytes(dice.choice((0, 0, 3)))
    return len(longer).to_bytes(4, "big") + longer[4:]


def _input(dice: random.Random, frames: Sequence[bytes]) -> bytes:
    """Noise; recorded frames run together, some octets changed; the same cut somewhere."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(LONGEST_NOISE))
    chosen = dice.choices(frames, k=dice.choice((1, 1, 1, 2, 3)))
    if dice.random() < 0.3:
        chosen[-1] = _with_tail(dice, chosen[-1])
    data = bytearray(b"".join(chosen))
    for _ in range(dice.choice((0, 1, 1, 2, 4, 8))):
        # the first octets hold lengths, commands and counts: worth more than the rest
        end = len(data) if dice.random() < 0.6 else min(len(data), 16)
        data[dice.randrange(end)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    if dice.random() < 0.3:
        del data[dice.randrange(len(data)) :]
    return bytes(data)
