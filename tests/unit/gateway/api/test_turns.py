"""One slice a turn, in the order of asking."""

from __future__ import annotations

import asyncio

from gateway.api.turns import Turns


async def test_one_slice_a_turn_in_order() -> None:
    turns, ran = Turns(), list[tuple[int, int]]()
    turn = 0

    async def slices(who: int) -> None:
        for _ in range(3):
            await turns.mine()
            ran.append((turn, who))

    tasks = [asyncio.create_task(slices(who)) for who in range(4)]
    for turn in range(40):  # noqa: B007 - `slices` reads it
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    when = [at for at, _ in ran]
    assert len(ran) == 12
    assert len(set(when)) == 12, "two slices in one turn of the loop"
    assert [who for _, who in ran[:4]] == [0, 1, 2, 3]


async def test_who_gave_up_does_not_stop_the_others() -> None:
    turns = Turns()
    gone = asyncio.create_task(turns.mine())
    stays = asyncio.create_task(turns.mine())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 1)
    await asyncio.wait_for(turns.mine(), 1)  # and nothing is left over
