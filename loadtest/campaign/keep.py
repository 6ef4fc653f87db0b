"""What is left of a text that the judge found fault with, for whoever looks for the reason.

One JSON file for each: its rows in words, what waits in `parked_reports`, every line that a
carrier or the sink wrote about it, and the findings; beside them the logs as they were then. They
hold numbers and texts, which are the campaign's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.campaign.books import Books, Told
from loadtest.campaign.judge import Verdict

MOST: Final = 20  # messages of a round; a gateway that loses more is looked at in another way


@dataclass(frozen=True, slots=True)
class Keeper:
    """Writes what is left into a folder of its own."""

    folder: Path
    records: Path  # of carriers and sink
    logs: Path

    async def keep(self, books: Books, verdicts: Sequence[Verdict]) -> None:
        """All of one round; nothing is written where nothing is wrong."""
        wrong = sorted({one for verdict in verdicts for one in verdict.wrong})[:MOST]
        if not wrong:
            return
        first = verdicts[0].fault.number
        folder = self.folder / f"faults-{first:04}"
        folder.mkdir(parents=True, exist_ok=True)
        faults = [verdict.as_json() for verdict in verdicts]
        _write(folder / "faults.json", faults)
        _write(folder / "parked_reports.json", await books.parked_reports())
        told = await books.told(wrong)
        lines = self._lines(told)
        for one in told:
            rest = {"number": one.number, "rows": one.rows, "lines": lines[one.number]}
            _write(folder / f"{one.message_id:016x}.json", rest)
        if self.logs.is_dir():
            shutil.copytree(self.logs, folder / "log", dirs_exist_ok=True)

    def _lines(self, told: Iterable[Told]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {one.number: [] for one in told}
        for path in sorted(self.records.glob("*.jsonl")):
            with path.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    for number, lines in found.items():
                        if number in line:
                            lines.append(f"{path.stem} {line.rstrip()}")
        return found


def _write(path: Path, content: Any) -> None:  # noqa: ANN401 - straight to JSON
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str), "utf-8")
