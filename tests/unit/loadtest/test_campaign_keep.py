"""What a campaign leaves of a text that something is wrong with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtest.campaign.books import Told
from loadtest.campaign.judge import Fault, Kind, Verdict
from loadtest.campaign.keep import Keeper

NUMBER = "8619210017579"


class FakeBooks:
    """A database with one message."""

    async def told(self, ids: list[int]) -> list[Told]:
        return [Told(one, NUMBER, ("2 NOTE delivered",)) for one in ids]

    async def parked_reports(self) -> list[str]:
        return ["one that waits"]


def keeper(folder: Path) -> Keeper:
    for name in ("records", "log"):
        (folder / name).mkdir()
    line = {"to": NUMBER, "index": 2}
    others = [{"to": "8619210017580", "index": 1}, line]
    (folder / "records" / "mobile-a.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in others), "utf-8"
    )
    (folder / "log" / "worker-0.log").write_text("what it said\n", "utf-8")
    return Keeper(folder / "kept", folder / "records", folder / "log")


async def test_its_rows_lines_and_the_logs_are_kept(tmp_path: Path) -> None:
    verdict = Verdict(Fault(9, "power.cut", 1.0, 2.0))
    verdict.add(Kind.NOT_SENT, "text 1", 0x1A3)
    books: Any = FakeBooks()
    await keeper(tmp_path).keep(books, [verdict])
    kept = tmp_path / "kept" / "faults-0009"
    told = json.loads((kept / "00000000000001a3.json").read_text("utf-8"))
    assert told["rows"] == ["2 NOTE delivered"]
    assert told["lines"] == [f'mobile-a {{"to": "{NUMBER}", "index": 2}}']
    assert json.loads((kept / "faults.json").read_text("utf-8"))[0]["findings"] == {"not_sent": 1}
    assert json.loads((kept / "parked_reports.json").read_text("utf-8")) == ["one that waits"]
    assert (kept / "log" / "worker-0.log").read_text("utf-8") == "what it said\n"


async def test_nothing_is_written_where_nothing_is_wrong(tmp_path: Path) -> None:
    books: Any = FakeBooks()
    await keeper(tmp_path).keep(books, [Verdict(Fault(9, "power.cut", 1.0, 2.0))])
    assert not (tmp_path / "kept").exists()
