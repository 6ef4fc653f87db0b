from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from store import logfiles, spawn
from store.embedded import EmbeddedServers

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """A fresh PostgreSQL cluster to copy: making one takes a second, and there are many tests."""
    top = Path(tempfile.mkdtemp(prefix="smsgw-test-"))
    servers = EmbeddedServers(top / "data", wanted=("postgres",))
    servers.start()
    servers.stop()
    yield top / "data" / "postgres"
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def data_dir(cluster):
    top = Path(tempfile.mkdtemp(prefix="smsgw-test-"))
    shutil.copytree(cluster, top / "data" / "postgres")
    yield top / "data"
    for up in Up.started:
        up.end(signal.SIGKILL)
    Up.started.clear()
    shutil.rmtree(top, ignore_errors=True)


class Up:
    """`smsgw up --json` with a worker that only answers."""

    started: ClassVar[list[Up]] = []

    def __init__(self, data_dir, *arguments, **env):
        names = {"SMSGW_DATA_DIR": str(data_dir), "SMSGW_PORT": "0", "SMSGW_ADMIN_PORT": "0"}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SMSGW_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_up", "up", "--json", *arguments],
            cwd=ROOT,
            env={**kept, **names, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events = []
        self.started.append(self)

    def until(self, event):
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"ended without {event}: {self.events} {self.process.stderr.read()}")

    def listening(self):
        told = self.until("listening")
        self.port = int(told["url"].rsplit(":", 1)[1]) if told["url"] else 0
        self.admin_port = int(told["admin_url"].rsplit(":", 1)[1])
        self.until("ready")
        return self

    def get(self, path, *, admin=False):
        port = self.admin_port if admin else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def worker(self):
        return json.loads(self.get("/pid")[1])["pid"]

    def metrics(self):
        return self.get("/metrics", admin=True)[1].decode()

    def workers(self):
        """Running workers: slot to pid."""
        found = {}
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and "worker" in process.cmdline():
                    found[int(process.environ()["SMSGW_WORKER_SLOT"])] = process.pid
        return found

    def children(self):
        return {
            p.name(): p.pid
            for p in psutil.Process(self.process.pid).children()
            if p.status() != psutil.STATUS_ZOMBIE
        }

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(45)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return self.process.returncode


def run_up(data_dir, *arguments, **env):
    up = Up(data_dir, *arguments, **env)
    out, err = up.process.communicate(timeout=60)
    return up.process.returncode, out, err


def wait_for(condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_serves_health_metrics_and_ends_in_order(data_dir):
    up = Up(data_dir).listening()
    assert up.get("/healthz", admin=True) == (200, b'{"status":"ok"}')
    assert up.get("/readyz", admin=True)[0] == 200
    status, metrics = up.get("/metrics", admin=True)
    assert status == 200
    assert b'smsgw_accepted_total{class="otp",tenant="shop"} 5.0' in metrics
    for name in (b"supervisor", b"worker-0", b"postgres", b"valkey"):
        assert b'smsgw_process_up{process="' + name + b'"} 1.0' in metrics
        assert b'smsgw_process_cpu_seconds_total{process="' + name + b'"}' in metrics
    assert up.get("/other", admin=True)[0] == 404
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(data_dir / "run" / "supervisor.sock"))
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert b"200" in client.recv(100)
    assert (data_dir / "master.key").stat().st_mode & 0o777 == 0o600
    children = up.children()
    assert up.end() == 0
    assert not any(spawn.started_at(pid) for pid in children.values())
    assert b"database system is shut down" in (data_dir / "log" / "postgres.log").read_bytes()


def test_a_dead_worker_comes_back_and_no_connection_is_dropped(data_dir):
    up = Up(data_dir).listening()
    before = up.worker()
    totals = up.get("/metrics", admin=True)[1]
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(before).status() == psutil.STATUS_STOPPED)
    waiting = http.client.HTTPConnection("127.0.0.1", up.port, timeout=10)
    waiting.request("GET", "/pid")  # stands in the backlog
    os.kill(before, signal.SIGKILL)
    after = json.loads(waiting.getresponse().read())["pid"]
    waiting.close()
    assert after != before
    ended = up.until("ended")
    assert (ended["child"], ended["how"]) == ("worker-0", "SIGKILL")
    wait_for(lambda: up.get("/readyz", admin=True)[0] == 200)
    metrics = up.get("/metrics", admin=True)[1]
    assert b'smsgw_accepted_total{class="otp",tenant="shop"} 5.0' in totals
    assert b'smsgw_accepted_total{class="otp",tenant="shop"} 10.0' in metrics  # both lives
    assert b'smsgw_process_restarts_total{process="worker-0"} 1.0' in metrics
    assert up.end() == 0


def test_the_log_of_a_process_that_lives_does_not_grow_without_end(data_dir):
    up = Up(data_dir).listening()
    path = data_dir / "log" / "worker-0.log"
    os.truncate(path, logfiles.LIMIT + 1)
    wait_for((data_dir / "log" / "worker-0.log.1").exists, 60)
    wait_for(lambda: path.stat().st_size < logfiles.LIMIT, 60)
    told = data_dir / "log" / "supervisor.log"
    wait_for(lambda: '"name": "worker-0.log"' in told.read_text("utf-8"), 60)
    assert up.end() == 0


def test_upkeep_that_cannot_be_started_ends_nobody(data_dir):
    (data_dir / "log" / "upkeep.log").mkdir(parents=True)  # nothing can be opened there
    (data_dir / "log").chmod(0o700)
    up = Up(data_dir, FAKE_UPKEEP_S="0").listening()
    told = data_dir / "log" / "supervisor.log"
    wait_for(lambda: '"event": "upkeep not started"' in told.read_text("utf-8"), 60)
    worker = up.worker()
    time.sleep(1)  # two rounds more
    assert up.worker() == worker
    assert told.read_text("utf-8").count("upkeep not started") == 1
    assert up.end() == 0


def test_dead_servers_come_back(data_dir):
    up = Up(data_dir).listening()
    before = up.children()
    for name in ("postgres", "valkey-server"):
        os.kill(before[name], signal.SIGKILL)
    names = {up.until("restarted")["server"], up.until("restarted")["server"]}
    assert names == {"postgres", "valkey"}
    wait_for(lambda: {"postgres", "valkey-server"} <= up.children().keys())
    assert up.end() == 0


def test_kill_9_takes_the_children_along_and_a_start_needs_no_cleaning(data_dir):
    up = Up(data_dir).listening()
    children = [p.pid for p in psutil.Process(up.process.pid).children()]
    up.end(signal.SIGKILL)
    again = Up(data_dir).listening()
    assert not any(spawn.started_at(pid) for pid in children)
    assert again.end() == 0


def two_workers(data_dir, **env):
    up = Up(data_dir, "--workers", "2", **env).listening()
    wait_for(
        lambda: all(
            f'smsgw_worker_ready{{process="worker-{n}"}} 1.0' in up.metrics() for n in (0, 1)
        )
    )
    return up


def test_several_workers_share_the_socket(data_dir):
    up = two_workers(data_dir)
    assert 'smsgw_accepted_total{class="otp",tenant="shop"} 10.0' in up.metrics()
    seen = set()

    def both_answered():
        seen.add(up.worker())
        return len(seen) == 2

    wait_for(both_answered)
    assert up.end() == 0


def test_kill_9_takes_all_workers_along(data_dir):
    up = two_workers(data_dir)
    children = [p.pid for p in psutil.Process(up.process.pid).children()]
    up.end(signal.SIGKILL)
    wait_for(lambda: not any(spawn.started_at(pid) for pid in children))


def test_one_worker_that_keeps_dying_does_not_take_the_others_down(data_dir):
    up = Up(data_dir, "--workers", "2", FAKE_WORKER="dying-1").listening()
    begun = time.monotonic()
    for _ in range(3):
        assert up.until("ended")["child"] == "worker-1"
    assert time.monotonic() - begun > 0.5  # ever later
    assert up.get("/readyz", admin=True)[0] == 200
    assert up.worker()
    assert 'smsgw_process_restarts_total{process="worker-0"}' not in up.metrics()
    assert up.end() == 0


def test_nor_one_that_says_its_settings_are_wrong(data_dir):
    up = Up(data_dir, "--workers", "2", FAKE_WORKER="broken-1").listening()
    for _ in range(2):
        assert up.until("ended")["how"] == "exit code 2"
    assert up.get("/readyz", admin=True)[0] == 200
    assert up.end() == 0


def test_when_all_workers_say_so_the_start_ends(data_dir):
    code, out, _ = run_up(data_dir, "--workers", "2", FAKE_WORKER="broken")
    assert code == 2
    assert "worker is broken" in out


def test_a_frozen_worker_is_killed_and_replaced_and_the_other_is_left_alone(data_dir):
    up = two_workers(data_dir, SMSGW_RELIABILITY__WATCHDOG_S="1")
    workers = up.workers()
    os.kill(workers[0], signal.SIGSTOP)
    killed = up.until("killed")
    assert killed["child"] == "worker-0"
    assert 1 < killed["silent_s"] < 15  # of the setting, not of what it is without one
    assert up.until("ended")["how"] == "SIGKILL"
    wait_for(lambda: len(up.workers()) == 2 and up.workers() != workers)
    assert spawn.started_at(workers[0]) is None
    assert up.workers()[1] == workers[1]
    assert 'smsgw_watchdog_kills_total{process="worker-0"} 1.0' in up.metrics()
    assert 'smsgw_watchdog_kills_total{process="worker-1"} 0.0' in up.metrics()
    assert up.end() == 0


def restart(data_dir):
    """`smsgw restart --json`: exit code and what it told."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SMSGW_")}
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "restart", "--json"],
        cwd=ROOT,
        env={**kept, "SMSGW_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr or done.returncode
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_rolling_restart_replaces_one_worker_after_the_other(data_dir):
    up = two_workers(data_dir)
    before = up.workers()
    code, told, _ = restart(data_dir)
    assert code == 0
    phases = [(line["worker"], line["phase"]) for line in told if line["event"] == "progress"]
    assert [p for p in phases if p[1] == "done"] == [("worker-0", "done"), ("worker-1", "done")]
    workers = [worker for worker, _ in phases]
    assert workers == sorted(workers)  # a phase that is short may not be seen, its order is
    assert told[-1]["event"] == "restarted"
    assert told[-1]["workers"] == 2
    after = up.workers()
    assert set(after.values()).isdisjoint(before.values())
    assert up.until("workers_restarted")["error"] is None
    assert not [e for e in up.events if e["event"] == "ended"]  # no alarm for what was asked
    assert up.end() == 0


def test_a_restart_stops_when_the_new_worker_does_not_get_ready(data_dir):
    up = two_workers(data_dir, SMSGW_RELIABILITY__RESTART_READY_S="8")
    before = up.workers()
    (data_dir / "unready").touch()
    code, told, _ = restart(data_dir)
    assert code == 1
    assert "worker-0 was not ready within 8 s (nothing works)" in told[-1]["error"]
    assert up.workers()[1] == before[1]
    assert up.get("/readyz", admin=True)[0] == 200  # by the one that was left
    (data_dir / "unready").unlink()
    assert restart(data_dir)[0] == 0  # and now it can be done
    assert up.end() == 0


def test_a_worker_that_does_not_drain_is_killed_in_a_restart(data_dir):
    numbers = {"DRAIN_TOTAL_S": "3", "DRAIN_BEFORE_S": "0", "DRAIN_ANSWERS_S": "1"}
    env = {f"SMSGW_RELIABILITY__{name}": value for name, value in numbers.items()}
    up = Up(data_dir, FAKE_WORKER="stubborn", **env).listening()
    code, told, _ = restart(data_dir)
    assert code == 0
    assert [line["killed"] for line in told if line.get("phase") == "done"] == [True]
    assert up.end() == 1  # and at the end too


def test_a_restart_after_the_end_finds_nobody(data_dir):
    assert Up(data_dir).listening().end() == 0
    code, _, err = restart(data_dir)
    assert code == 2
    assert "no gateway runs on" in err


def test_a_second_supervisor_is_refused_with_the_first_ones_pid(data_dir):
    up = Up(data_dir).listening()
    code, _, err = run_up(data_dir)
    assert code == 2
    assert f"pid {up.process.pid}" in err
    assert up.end() == 0


@pytest.mark.parametrize("variable", ["SMSGW_PORT", "SMSGW_ADMIN_PORT"])
def test_a_taken_port_is_named_with_its_variable(data_dir, variable):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run_up(data_dir, **{variable: str(port)})
    assert code == 2
    assert f"port {port} is taken" in err
    assert f"{variable}=" in err
    assert len(err.splitlines()) == 1


def test_a_worker_with_wrong_settings_ends_the_start(data_dir):
    code, out, _ = run_up(data_dir, FAKE_WORKER="broken")
    assert code == 2
    assert "worker is broken" in out


def test_a_worker_that_keeps_dying_is_started_ever_later(data_dir):
    up = Up(data_dir, FAKE_WORKER="dying")
    begun = time.monotonic()
    for _ in range(4):
        assert up.until("ended")["log"][-1] == "worker is dying"
    assert time.monotonic() - begun > 1.5  # 0, 0.5 and 1 s
    assert up.end() == 0


def test_a_second_signal_ends_it_now(data_dir):
    up = Up(data_dir, FAKE_WORKER="stubborn").listening()
    begun = time.monotonic()
    up.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert up.process.poll() is None
    assert up.end(signal.SIGINT) == 1
    assert time.monotonic() - begun < 20  # it would drain for 30


def test_fsync_off_is_refused(data_dir):
    assert Up(data_dir).listening().end() == 0
    with (data_dir / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("fsync = off\n")
    code, _, err = run_up(data_dir)
    assert code == 2
    assert "fsync=on" in err


def test_a_node_that_only_talks_to_carriers_has_no_public_port(data_dir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up = Up(data_dir, "--role", "carrier", "--workers", "2", SMSGW_PORT=str(port)).listening()
    assert up.port == 0
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
    assert up.get("/readyz", admin=True)[0] == 200
    assert up.end() == 0


def test_servers_of_the_environment_are_used(data_dir):
    up = Up(data_dir).listening()
    other = data_dir.parent / "other"
    second = Up(
        other,
        SMSGW_DATABASE_URL=f"postgresql://smsgw@/postgres?host={data_dir}/run",
        SMSGW_REDIS_URL=f"unix://{data_dir}/run/valkey.sock",
        SMSGW_MASTER_KEY_FILE=str(data_dir / "master.key"),
    ).listening()
    assert not (other / "postgres").exists()
    assert second.end() == 0
    assert up.end() == 0


def test_a_database_that_does_not_answer_is_told(data_dir):
    code, _, err = run_up(
        data_dir,
        SMSGW_DATABASE_URL="postgresql://x@127.0.0.1:1/x",
        SMSGW_REDIS_URL="redis://127.0.0.1:1",
    )
    assert code == 2
    assert "correct SMSGW_DATABASE_URL" in err
