"""What the measuring commands have in common: options, a clean end, the report and the exit code.

options ─▶ measure under a progress bar ─▶ JSON or lines on stdout ─▶ problems on stderr, 0 or 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.progress import Bar, progress_bar
from loadtest.stock_gateway import NotStock, StockGateway, fresh_directory, running

Found = dict[str, Any]  # a report as JSON-able data


def add_report_options(parser: argparse.ArgumentParser, shown: str = "lines") -> None:
    """Where to measure, and how to tell it (`shown` unless JSON is asked for)."""
    parser.add_argument("--data-parent", type=Path, help="directory on the disk to measure on")
    parser.add_argument("--json", action="store_true", help=f"JSON on stdout instead of {shown}")


def end_on_sigterm() -> None:
    """From now on a SIGTERM cancels the current task, which cleans up as after Ctrl-C."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextlib.asynccontextmanager
async def started(
    options: argparse.Namespace,
    bar: Bar,
    *,
    is_sampled: bool = False,
    extra: Sequence[str] = (),
    numbers: Mapping[str, object] | None = None,
) -> AsyncIterator[StockGateway]:
    """A stock gateway in a fresh directory; raises NotStock.

    `extra`: options of `smsgw up`; the others as `loadtest.stock_gateway.running` takes them.
    """
    end_on_sigterm()
    with fresh_directory(options.data_parent) as directory:
        bar.step("starting the gateway")
        async with running(
            directory, is_sampled=is_sampled, options=extra, numbers=numbers
        ) as gateway:
            yield gateway
            bar.step("stopping the gateway")


def measured(name: str, measure: Callable[[Bar], Found], console: Console) -> Found:
    """What `measure` finds; SystemExit 1 with a line when it could not, 130 when interrupted."""
    try:
        with progress_bar(console) as bar:
            return measure(bar)
    except (NotStock, ValueError, RuntimeError, OSError) as error:
        console.print(f"{name}: {error}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None


def print_found(
    found: Found, options: argparse.Namespace, show: Callable[[Found], None], indent: int | None = 2
) -> None:
    """The report on stdout: JSON when asked for, else as `show` writes it."""
    if options.json:
        sys.stdout.write(json.dumps(found, indent=indent, ensure_ascii=False) + "\n")
    else:
        show(found)


def print_problems(problems: Sequence[str], console: Console) -> None:
    """A red line each."""
    for line in problems:
        console.print(f"WRONG  {line}", markup=False, style="red", soft_wrap=True)
