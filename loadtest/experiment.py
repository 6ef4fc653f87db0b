"""An experiment: one story told by one stock gateway in a fresh directory, from start to verdict.

`loadtest.fairness`, `loadtest.overload` and `loadtest.backlog` are such commands. Exit 0 = the
report has no problems, 1 = it has some, or it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from loadtest.bench import Bench, machine
from loadtest.command import Found, measured, print_found, print_problems, started
from loadtest.progress import Bar
from loadtest.stock_gateway import StockGateway

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Experiment(ABC):
    """One run on one gateway."""

    def __init__(self, gateway: StockGateway, bar: Bar, options: argparse.Namespace) -> None:
        self._gateway = gateway
        self._bar = bar
        self._options = options
        self._bench = Bench(gateway, bar)

    @abstractmethod
    async def run(self) -> DataclassInstance:
        """Everything; a report with `problems`. Raises NotStock when it could not be measured."""


async def conduct(
    kind: type[Experiment],
    options: argparse.Namespace,
    bar: Bar,
    numbers: Mapping[str, object] | None = None,
    extra: Sequence[str] = (),
) -> Found:
    """Start, run, stop; the report as JSON-able data. Raises NotStock.

    `numbers`: settings of `Reliability` that are not stock; `extra`: options of `smsgw up`.
    """
    async with started(options, bar, numbers=numbers, extra=extra) as gateway:
        report = await kind(gateway, bar, options).run()
    return {"machine": machine(), **asdict(report)}


def carry_out(
    name: str,
    kind: type[Experiment],
    options: argparse.Namespace,
    show: Callable[[Found], None],
    numbers: Mapping[str, object] | None = None,
) -> int:
    """The command `name`: conduct it and print what was found; returns its exit code."""
    console = Console(stderr=True)
    found = measured(name, lambda bar: asyncio.run(conduct(kind, options, bar, numbers)), console)
    print_found(found, options, show)
    print_problems(found["problems"], console)
    return 1 if found["problems"] else 0
