"""What `smsgw top` draws and takes from the keyboard; over HTTP: tests/integration/test_top.py."""

import contextlib
import io
import os
import sys
import termios

import pytest
from rich.console import Console

from gateway.__main__ import main
from gateway.settings import Settings
from gateway.top import Answer, History
from gateway.toprates import read
from gateway.topscrape import nodes
from gateway.topview import _Keys, _keys, number, render, seconds, share
from sms.errors import ConfigError
from telemetry.metrics import Metrics
from telemetry.metrics import render as exposition

URL = "http://127.0.0.1:8081"
AWAY = "http://10.0.0.6:8081"
LONG = "a-carrier-with-a-name-that-is-longer-than-most"


def busy(factor=1, tenants=1) -> bytes:
    """A node with the widest values that a day may bring."""
    metrics = Metrics()
    for index in range(tenants):
        metrics.accepted_total.inc((f"tenant-{index}", "otp"), 2469 * factor)
    metrics.throttled_total.inc(("tenant-0", "tenant"), 14 * factor)
    metrics.throttled_total.inc(("tenant-0", "marketing"), 13 * factor)
    metrics.refused_total.inc(("recipient.country_not_allowed",), 24 * factor)
    metrics.final_total.inc(("failed", "otp", LONG), 3 * factor)
    metrics.final_total.inc(("delivered", "otp", LONG), 9 * factor)
    metrics.http_request_seconds.observe(("/v1/messages", "POST", "202"), 99.0, 10 * factor)
    for name, state in ((LONG, "half_open"), ("mobile-a", "up"), ("telecom-a", "down")):
        metrics.channel_state.set((name, state), 1.0)
        for outcome in ("answered_ok", "rejected", "throttled", "not_sent", "uncertain"):
            metrics.submits_total.inc((name, outcome), 2222 * factor)
        metrics.submit_seconds.observe((name,), 99.0, factor)
        metrics.channel_pace.set((name,), 1234.0)
        metrics.receipts_expected_total.inc((name,), 1000 * factor)
        metrics.receipts_in_time_total.inc((name,), 543 * factor)
        for kind in ("otp", "transactional", "marketing"):
            metrics.queue_messages.set((kind, name), 1234)
            metrics.queue_oldest_age_seconds.set((kind, name), 12345.0)
    metrics.smg_sessions.set((LONG,), 12.0)
    metrics.spilled_messages.set(("otp",), 1_234_567)
    metrics.spilled_oldest_age_seconds.set(("otp",), 7.6)
    metrics.uncertain_messages.set(("marketing",), 77)
    metrics.uncertain_oldest_age_seconds.set(("marketing",), 300.0)
    metrics.webhook_oldest_age_seconds.set((), 500.0)
    metrics.webhook_attempts_total.inc(("delivered",), 88 * factor)
    metrics.webhook_attempts_total.inc(("timeout",), 18 * factor)
    metrics.webhook_attempts_total.inc(("dead",), 4 * factor)
    metrics.conservation_residual.set(("tenant-0",), 5.0)
    metrics.process_up.set(("worker-0",), 1.0)
    metrics.worker_ready.set(("worker-0",), 1.0)
    return exposition(metrics.snapshot())


def drawn(width, height=None, tenants=1) -> str:
    history = History()
    for at, factor in ((0.0, 1), (2.0, 2)):
        told = read(busy(factor, tenants).decode())
        away = Answer(AWAY, at, fault="nothing listens there: start the node")
        picture = history.take([Answer(URL, at, told), away])
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(render(picture, width, height))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_nothing_is_cut_off(width):
    told = drawn(width)
    assert "…" not in told
    assert max(len(line) for line in told.splitlines()) <= width
    essentials = [
        f"● {URL}  1 of 1 processes up, 1 of 1 workers ready",
        f"✗ {AWAY}  nothing listens there: start the node",
        "rates over 2.0 s",
        "accepted 1.2k/s",
        "failed 25.0%",
        "http p99 ≥10s",
        "residual 5",
        "recipient.country_not_allowed 12/s",
        "mobile-a",
        "up deaf",
        "45.7%",
        "1.2M 7.6s",
        "77 5.0m",
        "oldest 8.3m",
        "delivered 44/s",
        "failed 9/s (timeout 9/s)",
        "given up 2/s, 8 in all",
        "tenant, marketing",
    ]
    for words in essentials:
        assert words in told, words
    [row] = [line for line in told.splitlines() if "telecom-a" in line]
    if width > 100:
        numbers = [*["1.1k"] * 5, "≥10s", *["1.2k", "3.4h"] * 3]
    else:  # what failed in one, and one age for all classes
        numbers = ["1.1k", "3.3k", "1.1k", "≥10s", *["1.2k"] * 3, "3.4h"]
    assert row.split()[2:] == [*numbers, "1.2k", "45.7%"]


def test_a_name_that_is_too_long_is_folded_and_all_there():
    lines = drawn(80).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(LONG[:10]))
    assert "".join(line[:10] for line in lines[first : first + 5]).startswith(LONG)


def test_rows_that_a_low_terminal_has_no_room_for_are_counted():
    assert "… and 17 more tenants" in drawn(80, height=24, tenants=20)
    assert "more" not in drawn(80, tenants=20)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.44, "0.4"),
        (9.96, "10"),
        (3.0, "3"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (34_000.0, "34k"),
        (5_600_000.0, "5.6M"),
        (-12.0, "-12"),
    ],
)
def test_numbers_are_short(value, told):
    assert number(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0.0042, "4ms"),
        (0.9996, "1.0s"),
        (1.24, "1.2s"),
        (59.4, "59s"),
        (59.6, "1.0m"),
        (3599.0, "1.0h"),
        (12345.0, "3.4h"),
        (864000.0, "10d"),
    ],
)
def test_ages_are_short(value, told):
    assert seconds(value) == told


def test_a_share_that_is_not_zero_does_not_look_like_it():
    told = [share(value) for value in (None, 0.0, 0.0001, 0.9999, 0.123)]
    assert told == ["–", "0.0%", "<0.1%", "100%", "12.3%"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SMSGW_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SMSGW_ADMIN_PORT", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(
    "url", ["localhost:8081", "ftp://x", "http://u:p@x", "http://x:99999", "http://x?y=1", ""]
)
def test_a_wrong_address_is_refused_with_its_form(url, capsys):
    assert main(["top", "--once", "--url", url]) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err


def test_where_the_node_is_asked_for():
    def asked(**fields):
        return nodes(Settings.load({"SMSGW_DATA_DIR": "/nowhere", **fields}), [])

    assert asked() == ["http://127.0.0.1:8081"]
    assert asked(SMSGW_HOST="0.0.0.0", SMSGW_ADMIN_PORT="9") == ["http://127.0.0.1:9"]
    assert asked(SMSGW_HOST="::") == ["http://[::1]:8081"]


def test_a_sandbox_is_found_by_its_file(tmp_path):
    (tmp_path / "sandbox.json").write_text('{"admin_url": "http://127.0.0.1:4711"}')
    environment = {"SMSGW_DATA_DIR": str(tmp_path)}
    assert nodes(Settings.load(environment), []) == ["http://127.0.0.1:4711"]
    assert nodes(Settings.load(environment | {"SMSGW_ADMIN_PORT": "9"}), []) == [
        "http://127.0.0.1:9"
    ]


def test_the_same_node_twice_is_one(tmp_path):
    settings = Settings.load({"SMSGW_DATA_DIR": str(tmp_path)})
    assert nodes(settings, [URL, f"{URL}/", f"{URL}/metrics"]) == [URL]
    with pytest.raises(ConfigError):
        nodes(settings, ["http://"])


@pytest.mark.parametrize("text", ["0", "nan", "-1", "x", "4000"])
def test_an_interval_is_seconds(text, capsys):
    with pytest.raises(SystemExit) as left:
        main(["top", "--interval", text])
    assert left.value.code == 2
    assert "seconds, from 0.1 to 3600" in capsys.readouterr().err


def test_q_ends_the_wait_and_other_keys_do_not():
    reader, writer = os.pipe()
    keys = _Keys(reader)
    os.write(writer, b"x\x1b[A")
    assert not keys(0)
    os.write(writer, b"Q")
    assert keys(3600)
    os.close(writer)
    assert keys(3600)  # the terminal is gone
    os.close(reader)


def test_the_terminal_is_as_before_whatever_happens(monkeypatch):
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with contextlib.suppress(KeyboardInterrupt), _keys():
            assert not termios.tcgetattr(terminal)[3] & termios.ICANON
            raise KeyboardInterrupt
        assert termios.tcgetattr(terminal) == before
    os.close(keyboard)
