"""The progress bar of long work: on a terminal, silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bar:
    """The progress bar on a terminal; silent elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def step(self, text: str, seconds: float | None = None) -> None:
        """A new step, of known or unknown length."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(text, total=seconds, told="")

    def tell(self, seconds: float, text: str) -> None:
        """How far the step is."""
        if self._task is not None:
            self._progress.update(self._task, completed=seconds, told=text)


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Bar]:
    """A bar on that console, gone when it is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield Bar(progress)
