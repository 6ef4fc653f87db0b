"""CPU by process, latencies by share: the arithmetic of `make bench`.

The gateway is a tree of processes below its supervisor. They are told apart by how they were
started; PostgreSQL's backends are summed, ended ones included (their parent keeps their time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import psutil

Group = Literal["worker", "supervisor", "postgres", "valkey", "carriers", "sink", "other"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
GATEWAY: Final[tuple[Group, ...]] = ("worker", "supervisor", "postgres", "valkey")


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of one measured thing, in its own unit; all 0 when nothing was measured."""

    p50: float
    p99: float
    maximum: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of values in any order."""
    if not values:
        return Spread(0.0, 0.0, 0.0, 0)
    ordered = sorted(values)
    last = len(ordered) - 1
    half, most = ordered[round(last * 0.5)], ordered[round(last * 0.99)]
    return Spread(round(half, 3), round(most, 3), round(ordered[-1], 3), len(ordered))


def group_of(name: str, args: Sequence[str]) -> Group:
    """Which part of the running gateway a process is, by its name and command line."""
    if name.startswith("postgres") or (args and args[0].startswith("postgres:")):
        return "postgres"
    if name.startswith(("valkey", "redis")):
        return "valkey"
    words = [word for word in args if not word.startswith("/")]
    if "loadtest.carrier" in words:
        return "carriers"
    if "loadtest.sink" in words:
        return "sink"
    if "gateway" in words:
        return "worker" if "worker" in words else "supervisor"
    return "other"


def machine_s() -> tuple[float, float]:
    """CPU seconds used by everybody, and all there were, since the machine's start."""
    times = psutil.cpu_times()
    every = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return every - times.idle - getattr(times, "iowait", 0.0), every


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and resident memory of the tree at one moment, and who was there."""

    cpu_s: Mapping[Group, float]
    resident: Mapping[Group, int]  # bytes; PostgreSQL's shared memory counts once per backend
    pids: Mapping[Group, frozenset[int]]
    postgres: Mapping[str, float] = field(default_factory=dict)  # CPU seconds by kind of process


def usage(*roots: int) -> Usage:
    """Look at the processes `roots` and everything below them; raises psutil.NoSuchProcess."""
    tops = [psutil.Process(root) for root in roots]
    cpu_s = dict.fromkeys(GROUPS, 0.0)
    resident = dict.fromkeys(GROUPS, 0)
    pids: dict[Group, set[int]] = {group: set() for group in GROUPS}
    kinds: dict[str, float] = {}
    for process in (found for top in tops for found in (top, *top.children(recursive=True))):
        with contextlib.suppress(psutil.Error), process.oneshot():  # it may end while we look
            group = group_of(process.name(), process.cmdline())
            times = process.cpu_times()
            cpu_s[group] += times.user + times.system
            if group == "postgres":
                ended = times.children_user + times.children_system
                cpu_s[group] += ended
                kind = postgres_kind(process.cmdline())
                kinds[kind] = kinds.get(kind, 0.0) + times.user + times.system
                kinds["ended"] = kinds.get("ended", 0.0) + ended
            resident[group] += process.memory_info().rss
            pids[group].add(process.pid)
    frozen = {group: frozenset(found) for group, found in pids.items()}
    return Usage(cpu_s, resident, frozen, kinds)


def postgres_kind(args: Sequence[str]) -> str:
    """What a process of PostgreSQL does: `checkpointer`, `autovacuum worker` …, or `backend`."""
    title = args[0] if args else ""
    words = title.removeprefix("postgres: ")
    for kind in ("checkpointer", "background writer", "walwriter", "autovacuum", "io worker"):
        if words.startswith(kind):
            return kind
    return "backend" if title.startswith("postgres: ") else "postmaster"


def cpu_between(before: Usage, after: Usage) -> dict[Group, float]:
    """CPU seconds used by each part; raises RuntimeError when one ended or came in between.

    A restarted process begins at 0 again, so its figure would be too small.
    """
    for group in GROUPS:
        if group not in ("postgres", "other") and before.pids[group] != after.pids[group]:
            raise RuntimeError(f"{group} was restarted while it was measured")
    return {group: after.cpu_s[group] - before.cpu_s[group] for group in GROUPS}
