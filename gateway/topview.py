"""`smsgw top`: how the picture of gateway/top.py is drawn, and the loop that keeps it fresh."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.settings import Settings
from gateway.top import HELD, UP, Channel, History, Lane, Picture, Tenant, Waiting, Webhooks
from gateway.topscrape import ask, nodes
from telemetry.series import FAST

WIDE = 120  # columns, from which on every outcome and class has a column of its own
FEWEST_ROWS = 3  # of a table, however low the terminal
_FIXED_LINES = 21  # that are neither nodes, nor facts that wrap, nor rows of channels and tenants
_THOUSAND, _MINUTE, _HOUR, _DAY = 1000.0, 60.0, 3600.0, 86400.0
_SHORT = {"otp": "otp", "transactional": "trans", "marketing": "market"}
_BAD, _WARN, _GOOD, _DIM = "bold red", "yellow", "green", "dim"
_STATE_STYLES = {UP: _GOOD, "ramp": _WARN, "half_open": _WARN, "paused": _WARN}
_OUTCOMES = {
    "answered_ok": "ok/s",
    "rejected": "rejected/s",
    "throttled": "throttled/s",
    "not_sent": "not sent/s",
    "uncertain": "uncertain/s",
}
_FAILURES = ("rejected", "not_sent", "uncertain")


def run(
    settings: Settings, urls: Sequence[str], interval_s: float, *, once: bool, is_json: bool
) -> int:
    """Show until q or Ctrl-C; with `once` (and where there is no terminal) one picture.

    Returns 1 when that one shows no node at all. Raises ConfigError for a wrong address.
    """
    asked, history = nodes(settings, urls), History()
    if is_json or once or not sys.stdout.isatty():
        return _show_once(asked, history, interval_s, is_json=is_json)
    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt), _keys() as has_quit:
        picture = history.take(ask(asked))
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(render(picture, console.width, console.height), refresh=True)
                if has_quit(interval_s):
                    break
                picture = history.take(ask(asked))
    return 0


def _show_once(asked: Sequence[str], history: History, interval_s: float, *, is_json: bool) -> int:
    picture = history.take(ask(asked))
    if not picture.is_blind:  # a rate is a difference
        time.sleep(interval_s)
        picture = history.take(ask(asked))
    if is_json:
        sys.stdout.write(json.dumps(picture.document(), ensure_ascii=False) + "\n")
    else:
        console = Console(highlight=False)
        console.print(render(picture, console.width))
    return int(picture.is_blind)


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    """Keys one by one and unseen, for as long as this is entered."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios  # not on every system, and only here
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Keys:
    """Waits, and says whether q was pressed meanwhile."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __call__(self, seconds: float) -> bool:
        if self._descriptor is None:
            time.sleep(seconds)
            return False
        until = time.monotonic() + seconds
        while select.select([self._descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            pressed = os.read(self._descriptor, 64)
            if not pressed or b"q" in pressed.lower():  # nothing: the terminal is gone
                return True
        return False


def render(picture: Picture, width: int, height: int | None = None) -> RenderableType:
    """The picture in `width` columns; rows that `height` has no room for are counted instead."""
    parts: list[RenderableType] = [_head(picture, is_live=height is not None)]
    if not picture.is_blind:
        room = _room(picture, height)
        parts += [
            _channels(picture.channels, width, room),
            _lanes(picture.lanes),
            _webhooks(picture.webhooks),
            _tenants(picture, None if room is None else room - len(picture.channels)),
        ]
    return Group(*parts)


def _room(picture: Picture, height: int | None) -> int | None:
    """Rows for channels and tenants together."""
    return None if height is None else height - _FIXED_LINES - len(picture.nodes)


def _head(picture: Picture, *, is_live: bool) -> RenderableType:
    if picture.is_blind:
        span = "no node answers"
    elif picture.span_s is None:
        span = "rates: in a moment"
    else:
        span = f"rates over {picture.span_s:.1f} s"
    title = Text.assemble(("smsgw top", "bold"), f"   {span}{'   q quits' if is_live else ''}")
    lines: list[RenderableType] = [title]
    for node in picture.nodes:
        if node.fault:
            lines.append(Text.assemble((f"✗ {node.url}  {node.fault}", _BAD)))
            continue
        is_whole = node.processes == node.processes_up and node.workers == node.workers_ready
        lines.append(
            Text.assemble(
                ("● ", _GOOD if is_whole else _BAD),
                f"{node.url}  {node.processes_up} of {node.processes} processes up, "
                f"{node.workers_ready} of {node.workers} workers ready",
            )
        )
    if picture.is_blind:
        return Group(*lines)
    traffic = picture.traffic
    facts = [
        _fact("accepted", per_s(traffic.accepted)),
        _fact("final", per_s(traffic.finals)),
        _fact("failed", share(traffic.failed_share), _WARN if traffic.failed_share else ""),
        _fact("refused", per_s(_sum(traffic.refused))),
        _fact("http p99", seconds(traffic.send_p99_s, most=FAST[-1])),
        _fact("http 5xx", share(traffic.errors_share), _BAD if traffic.errors_share else ""),
        _fact("residual", number(traffic.residual), _BAD if traffic.residual else ""),
        _fact("stray", number(traffic.stray), _BAD if traffic.stray else ""),
        _fact("reports parked", number(traffic.parked_reports)),
        _fact("unwritten for", seconds(traffic.store_write_age_s)),
        _fact("loop lag", seconds(traffic.loop_lag_s)),
        _fact("disk", share(traffic.disk_used)),
        _fact("processes of all nodes", number(traffic.processes)),
    ]
    return Group(*lines, Columns(facts, padding=(0, 3), width=None), _refusals(traffic.refused))


def _fact(name: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{name} ", _DIM), (value, style or "bold"))


def _refusals(refused: Mapping[str, float] | None) -> Text:
    words = [f"{code} {per_s(value)}" for code, value in (refused or {}).items()]
    return Text.assemble(("refused by code  ", _DIM), ", ".join(words[:4]) or "none")


def _table(title: str, *columns: str, names: int = 1) -> Table:
    """The first columns, as many as `names`, hold words, which fold; the others numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0)
    )
    for index, column in enumerate(columns):
        if index < names:
            table.add_column(column, overflow="fold", header_style=_DIM)
        else:
            table.add_column(column, justify="right", no_wrap=True, header_style=_DIM)
    return table


def _channels(channels: Sequence[Channel], width: int, room: int | None) -> RenderableType:
    is_wide = width >= WIDE
    shown = list(channels if room is None else channels[: max(FEWEST_ROWS, room - FEWEST_ROWS)])
    if is_wide:
        heads = [*_OUTCOMES.values(), "p95", *_SHORT.values(), "pace/s", "no receipt"]
    else:
        heads = ["ok/s", "bad/s", "thr/s", "p95", *_SHORT.values(), "oldest", "pace", "norcpt"]
    table = _table("Channels", "channel", "state", *heads, names=2)
    table.columns[0].min_width, table.columns[1].min_width = 10, 7
    for channel in shown:
        state = Text(_state(channel), _STATE_STYLES.get(channel.state, _BAD))
        table.add_row(
            Text(channel.name),
            state,
            *_submits(channel, is_wide=is_wide),
            seconds(channel.answer_p95_s, most=FAST[-1]),
            *_queue(channel, is_wide=is_wide),
            number(channel.pace),
            share(channel.missing_receipts),
        )
    return _with_rest(table, len(channels) - len(shown), "channels")


def _state(channel: Channel) -> str:
    """With what is missing or special of its way back."""
    if channel.name == HELD:
        return channel.state
    is_deaf = channel.state == UP and not channel.is_receiving
    logins = "" if channel.smg_sessions is None else f" smg {channel.smg_sessions:.0f}"
    word = channel.state.replace("_", " ")  # a narrow column folds there
    return f"{word}{' deaf' if is_deaf else ''}{logins}"


def _submits(channel: Channel, *, is_wide: bool) -> list[str]:
    submits = channel.submits
    if submits is None:
        return ["–"] * (len(_OUTCOMES) if is_wide else 3)
    if is_wide:
        return [per_s(submits.get(outcome, 0.0), unit="") for outcome in _OUTCOMES]
    bad = sum(submits.get(outcome, 0.0) for outcome in _FAILURES)
    values = (submits.get("answered_ok", 0.0), bad, submits.get("throttled", 0.0))
    return [per_s(value, unit="") for value in values]


def _queue(channel: Channel, *, is_wide: bool) -> list[str]:
    """By class, each with its oldest; where it is narrow the oldest of all stands behind."""
    queues = [channel.queue.get(kind, Waiting()) for kind in _SHORT]
    if is_wide:
        return [_waiting(queue) for queue in queues]
    oldest = max((queue.oldest_s for queue in queues if queue.messages), default=None)
    return [*(number(queue.messages) for queue in queues), seconds(oldest)]


def _waiting(queue: Waiting) -> str:
    return f"{number(queue.messages)} {seconds(queue.oldest_s)}" if queue.messages else "0"


def _lanes(lanes: Sequence[Lane]) -> RenderableType:
    table = _table("Lanes", "class", "waiting", "oldest", "spilled", "uncertain", "for a retry")
    for lane in lanes:
        table.add_row(
            Text(lane.message_class),
            number(lane.waiting),
            seconds(lane.oldest_s) if lane.waiting else "–",
            _waiting(Waiting(lane.spilled, lane.spilled_oldest_s)),
            _waiting(Waiting(lane.uncertain, lane.uncertain_oldest_s)),
            number(lane.retries_waiting),
        )
    return table


def _webhooks(webhooks: Webhooks) -> RenderableType:
    failed = webhooks.failed
    causes = ", ".join(f"{cause} {per_s(value)}" for cause, value in (failed or {}).items())
    facts = [
        _fact("oldest", seconds(webhooks.oldest_s)),
        _fact("delivered", per_s(webhooks.delivered)),
        _fact("failed", per_s(_sum(failed)) + (f" ({causes})" if causes else "")),
        _fact("given up", f"{per_s(webhooks.given_up)}, {number(webhooks.given_up_total)} in all"),
        _fact("endpoints disabled", number(webhooks.disabled_total)),
    ]
    return Group(Text("Webhooks", "bold"), Columns(facts, padding=(0, 3)))


def _tenants(picture: Picture, room: int | None) -> RenderableType:
    tenants: Sequence[Tenant] = picture.tenants
    shown = tenants if room is None else tenants[: max(FEWEST_ROWS, room)]
    table = _table("Tenants", "tenant", "accepted/s", "throttled/s", "by", "residual")
    for tenant in shown:
        scopes = ", ".join(tenant.throttled or {})
        table.add_row(
            Text(tenant.name),
            per_s(tenant.accepted, unit=""),
            per_s(_sum(tenant.throttled), unit=""),
            scopes or "–",
            Text(number(tenant.residual), _BAD if tenant.residual else ""),
        )
    return _with_rest(table, len(tenants) - len(shown), "tenants")


def _with_rest(table: Table, missing: int, what: str) -> RenderableType:
    if missing <= 0:
        return table
    return Group(table, Text(f"… and {missing} more {what}: make the terminal higher", _DIM))


def _sum(values: Mapping[str, float] | None) -> float | None:
    return None if values is None else sum(values.values())


def per_s(value: float | None, unit: str = "/s") -> str:
    """A rate."""
    return "–" if value is None else f"{number(value)}{unit}"


def number(value: float | None) -> str:
    """At most five characters: 0, 0.4, 12, 999, 1.2k, 34k, 5.6M."""
    if value is None:
        return "–"
    if value < 0:
        return f"-{number(-value)}"
    for unit in ("", "k", "M", "G"):
        if value < _THOUSAND - 0.5:
            has_part = value < 9.95 and (unit or value != round(value))
            return f"{value:.1f}{unit}" if has_part else f"{value:.0f}{unit}"
        value /= _THOUSAND
    return "999G+"


def seconds(value: float | None, most: float | None = None) -> str:
    """An age: 4ms, 1.2s, 59s, 12m, 3.4h, 12d; `most`: what a histogram cannot tell from more."""
    if value is None:
        return "–"
    if most is not None and value >= most:
        return f"≥{most:g}s"
    if value < 0.9995:
        return f"{value * _THOUSAND:.0f}ms"
    for size, unit, end in ((1.0, "s", _MINUTE), (_MINUTE, "m", _HOUR), (_HOUR, "h", _DAY)):
        if value < end - size / 2:
            count = value / size
            return f"{count:.1f}{unit}" if count < 9.95 else f"{count:.0f}{unit}"
    return f"{value / _DAY:.0f}d"


def share(value: float | None) -> str:
    """Per cent; what is not 0 never looks like 0."""
    if value is None:
        return "–"
    if 0 < value < 0.001:
        return "<0.1%"
    return "100%" if value >= 0.9995 else f"{value * 100:.1f}%"
