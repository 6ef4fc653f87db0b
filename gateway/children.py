"""A child process that is started again when it ends.

It dies with its parent, logs into a file of its own, and comes back at once the first time, then
ever later while it keeps dying.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from store.logfiles import open_log
from store.spawn import spawn

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0)
STEADY_S = 30.0  # who lived so long starts with a clean record


def backoff_s(deaths: int, longest_s: float = BACKOFF_S[-1]) -> float:
    """Seconds to wait before the next start after so many deaths in a row."""
    return min(BACKOFF_S[min(max(deaths, 1), len(BACKOFF_S)) - 1], longest_s)


def tail(path: Path, lines: int = 5, *, since: int = 0) -> list[str]:
    """The last lines of a log from byte `since` on, short enough for a message.

    Of a structured line what happened and the last line of its traceback are shown.
    """
    try:
        with path.open("rb") as log:
            size = path.stat().st_size
            begin = since if since <= size else 0  # it was set aside since then
            log.seek(max(begin, size - 65_536))
            told = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [_short(line) for line in told if line.strip()][-lines:]


def _short(line: str) -> str:
    try:
        told = json.loads(line)
        words = [str(told["event"]).strip()]
    except (ValueError, KeyError, TypeError):
        return line[:300]
    words += [str(told[name]) for name in ("error", "reason") if told.get(name)]
    words += str(told.get("exception", "")).strip().splitlines()[-1:]
    return ": ".join(words)[:300]


def ended_how(code: int) -> str:
    """`exit code 3`, or the name of the signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@dataclass(slots=True)
class Child:
    """One supervised process; `start` only from the main thread."""

    name: str
    args: Sequence[str]
    env: Mapping[str, str]
    log: Path
    death_signal: signal.Signals = signal.SIGKILL
    pass_fds: Sequence[int] = ()
    longest_wait_s: float = BACKOFF_S[-1]  # before a start
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    starts: int = 0
    started_at: float = 0.0  # monotonic
    due_at: float = 0.0  # monotonic; when to start it again
    is_leaving: bool = False  # this life was asked to end
    last_code: int | None = None  # how the life before this one ended
    log_from: int = 0  # bytes; where the log of this life begins

    def start(self, now: float) -> None:
        """Fork and exec."""
        log = open_log(self.log)
        try:
            self.log_from = os.fstat(log).st_size
            self.process = spawn(
                self.args,
                death_signal=self.death_signal,
                log=log,
                env=self.env,
                pass_fds=self.pass_fds,
            )
        finally:
            os.close(log)
        self.started_at = now
        self.starts += 1
        self.is_leaving = False

    def last_words(self) -> list[str]:
        """The end of what this life wrote into its log."""
        return tail(self.log, since=self.log_from)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        if self.process is None or self.process.poll() is not None:
            return None
        return self.process.pid

    def reap(self, now: float) -> int | None:
        """The exit code when it has ended since the last look; the next start is then due.

        An end that was asked for is no death: the next start is due at once.
        """
        if self.process is None:
            return None
        code = self.process.poll()
        if code is None:
            return None
        self.process = None
        self.last_code = code
        if self.is_leaving:
            self.deaths, self.due_at = 0, now
        else:
            self.deaths = 1 if now - self.started_at > STEADY_S else self.deaths + 1
            self.due_at = now + backoff_s(self.deaths, self.longest_wait_s)
        return code

    def put_off(self, now: float) -> None:
        """It could not be started: a death before its life."""
        self.deaths += 1
        self.due_at = now + backoff_s(self.deaths, self.longest_wait_s)

    def send(self, number: signal.Signals) -> None:
        """Send a signal while it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def ask_to_end(self) -> None:
        """SIGTERM once in a life: to a worker a second one means now."""
        if not self.is_leaving:
            self.is_leaving = True
            self.send(signal.SIGTERM)

    def end(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL; waits."""
        if self.process is None:
            return
        self.process.terminate()
        end = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        self.process = None


@dataclass(slots=True)
class CpuTotal:
    """CPU seconds of one name over the lives of its processes: the sum must never go back."""

    pid: int = 0
    seen: float = 0.0
    earlier: float = 0.0

    def add(self, pid: int, seconds: float) -> float:
        """The sum with what the process `pid` has used by now."""
        if pid != self.pid or seconds < self.seen:
            self.earlier += self.seen
            self.pid = pid
        self.seen = seconds
        return self.earlier + self.seen


def cpu_seconds(pid: int, *, has_children: bool = False) -> float:
    """User and system time of a process, its ended children and, when told, its running ones.

    Finding the running ones reads the whole process list: only PostgreSQL has any.
    """
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in process.children() if has_children else ():
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
    except psutil.Error:
        return 0.0
    return float(total)
