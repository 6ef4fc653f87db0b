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


def _input(dice: random.Random, frames: Sequence[bytes]) -> bytes:
    """Noise; recorded frames run together, some octets changed; the same cut somewhere."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.randrange(LONGEST_NOISE))
    data = bytearray(b"".join(dice.choices(frames, k=dice.choice((1, 1, 1, 2, 3)))))
    for _ in range(dice.choice((0, 1, 1, 2, 4, 8))):
        # the first octets hold lengths, commands and counts: worth more than the rest
        end = len(data) if dice.random() < 0.6 else min(len(data), 16)
        data[dice.randrange(end)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    if dice.random() < 0.3:
        del data[dice.randrange(len(data)) :]
    return bytes(data)
