"""Two workers on one node: killed, frozen, restarted one after another, and ended, under load.

The carriers' own records judge: what got a 202 is with them, once.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from sms.model import State
from tests.support.gateway_process import DRAIN_S, PATIENCE_S, GatewayProcess, eventually
from tests.support.steady import SteadyLoad, read_states

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2, watchdog_s="3", drain_before_s="1") as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """The module's gateway with both workers ready."""
    running.calm()
    both_ready(running)
    return running


def both_ready(gateway: GatewayProcess) -> None:
    eventually(lambda: gateway.metric("worker_ready") == 2, "both workers are ready")


def answered_by(gateway: GatewayProcess, name: str) -> float:
    """CPU seconds stand for work: the answers are counted for the node as a whole."""
    return gateway.metric("process_cpu_seconds_total", process=name)


def copies(gateway: GatewayProcess, load: SteadyLoad) -> Counter[str]:
    """How often the carriers took each accepted number."""
    found = Counter({number.lstrip("+"): 0 for number in load.accepted.values()})
    for carrier in gateway.carriers.values():
        for row in carrier.submits():
            if row["to"] in found:
                found[row["to"]] += 1
    return found


def all_reach_their_end(
    gateway: GatewayProcess, load: SteadyLoad, *or_in: State, timeout_s: float = PATIENCE_S
) -> None:
    """Every accepted message is delivered, or where `or_in` says."""
    waiting = list(load.accepted)

    def look() -> bool:
        states = read_states(gateway, waiting)
        waiting[:] = [one for one in waiting if states.get(one) not in (State.DELIVERED, *or_in)]
        return not waiting

    eventually(look, f"{len(load.accepted)} messages are delivered", timeout_s, 0.3)


def each_once(gateway: GatewayProcess, load: SteadyLoad) -> None:
    """Nobody was killed: no copy may be out."""
    counts = Counter(copies(gateway, load).values())
    assert counts == {1: len(load.accepted)}, counts


def loaded(gateway: GatewayProcess, load: SteadyLoad, count: int) -> None:
    """Wait until so many more were accepted."""
    wanted = len(load.accepted) + count
    eventually(lambda: len(load.accepted) >= wanted, f"{count} more are accepted")


def is_another(gateway: GatewayProcess, name: str, before: int) -> bool:
    return gateway.pids().get(name) not in (None, before)


def test_both_workers_get_traffic_and_the_numbers_are_the_node_s(gateway):
    before = {name: answered_by(gateway, name) for name in ("worker-0", "worker-1")}
    accepted = gateway.metric("accepted_total")
    with SteadyLoad(gateway) as load:
        loaded(gateway, load, 300)
        spread = [gateway.metric("http_connections", process=f"worker-{slot}") for slot in range(2)]
    assert load.errors == []
    worked = {name: answered_by(gateway, name) - before[name] for name in before}
    assert min(worked.values()) > 0.1 * max(worked.values()), (worked, spread)
    assert gateway.metric("accepted_total") - accepted == len(load.accepted)
    assert gateway.metric("config_version") == 1
    all_reach_their_end(gateway, load)
    each_once(gateway, load)


def test_a_rolling_restart_under_load_is_not_noticed(gateway):
    before = gateway.pids()
    totals = gateway.metric("accepted_total")
    with SteadyLoad(gateway) as load:
        loaded(gateway, load, 200)
        done = gateway.command("restart", "--json")
        loaded(gateway, load, 200)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, told[-1]["event"]) == (0, "restarted"), done.stdout + done.stderr
    assert load.errors == []
    after = gateway.pids()
    assert {name for name in after if after[name] != before[name]} == {"worker-0", "worker-1"}
    assert [step["killed"] for step in told if step.get("phase") == "done"] == [False, False]
    all_reach_their_end(gateway, load)
    each_once(gateway, load)
    assert gateway.metric("accepted_total") - totals == pytest.approx(len(load.accepted), rel=0.02)
    events = (gateway.folder / "up.out").read_text()
    assert "ended (" not in events  # no alarm


def test_kill_9_of_one_worker_and_the_other_goes_on(gateway):
    before = gateway.pids()
    with SteadyLoad(gateway, retries_refused=True) as load:
        loaded(gateway, load, 200)
        os.kill(before["worker-1"], signal.SIGKILL)
        killed_at = time.monotonic()
        loaded(gateway, load, 100)
        again_s = time.monotonic() - killed_at
        eventually(lambda: is_another(gateway, "worker-1", before["worker-1"]), "a new one")
        both_ready(gateway)
        loaded(gateway, load, 100)
    assert again_s < 30  # at once; the socket of a dead worker would keep its half for ever
    assert gateway.pids()["worker-0"] == before["worker-0"]
    # Who had a request with the dead one knows that it broke; nothing was refused or timed out.
    assert len(load.errors) <= 24
    assert {error.partition("(")[0] for error in load.errors} <= {
        "ServerDisconnectedError",
        "ClientOSError",
        "ConnectionResetError",
    }
    assert load.refused == 0  # the socket is the supervisor's
    all_reach_their_end(gateway, load)
    found = copies(gateway, load)
    assert set(found.values()) <= {1, 2}
    twice = {f"+{number}" for number, count in found.items() if count == 2}
    marked = {
        number
        for message_id, number in load.accepted.items()
        if number in twice and gateway.status(message_id)["duplicate_risk"]
    }
    assert marked == twice


def test_a_frozen_worker_is_killed_and_replaced(gateway):
    before = gateway.pids()
    pid = before["worker-0"]
    with SteadyLoad(gateway, retries_refused=True) as load:
        loaded(gateway, load, 100)
        os.kill(pid, signal.SIGSTOP)
        frozen_at = time.monotonic()
        eventually(lambda: is_another(gateway, "worker-0", pid), "it is replaced")
        assert time.monotonic() - frozen_at > 3  # not before its patience was over
        assert not psutil.pid_exists(pid)  # reaped, before the next one was started
        both_ready(gateway)
        loaded(gateway, load, 100)
    assert gateway.metric("watchdog_kills_total", process="worker-0") == 1
    assert gateway.metric("watchdog_kills_total", process="worker-1") == 0
    assert gateway.pids()["worker-1"] == before["worker-1"]
    all_reach_their_end(gateway, load)
    assert set(copies(gateway, load).values()) <= {1, 2}


def test_sigterm_under_load_keeps_every_202(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(latency_ms=300, receipt_delay_ms=100)
    with SteadyLoad(gateway, retries_refused=True) as load:
        loaded(gateway, load, 200)
        code, seconds = gateway.stop()
        load.stop()
    assert code == 0
    assert seconds < DRAIN_S
    assert len(load.accepted) > 200
    assert all("503" not in error for error in load.errors), Counter(load.errors)
    gateway.start()
    both_ready(gateway)
    all_reach_their_end(gateway, load, State.SUBMITTED)  # the carriers ended too, with reports
    each_once(gateway, load)


def test_sigterm_ends_in_time_when_no_carrier_answers():
    numbers = {"drain_total_s": "10", "drain_answers_s": "9", "drain_before_s": "1"}
    with GatewayProcess(workers=2, **numbers) as gateway:
        both_ready(gateway)
        for carrier in gateway.carriers.values():
            carrier.behave(silent=True)
        with SteadyLoad(gateway, retries_refused=True) as load:
            loaded(gateway, load, 100)
            code, seconds = gateway.stop()
            load.stop()
        assert code == 0
        assert 3 < seconds < 20  # some 8 by itself; its supervisor would not have had code 0
        gateway.start()
        states = Counter(read_states(gateway, list(load.accepted)).values())
        assert sum(states.values()) == len(load.accepted)
        assert states.keys().isdisjoint({State.FAILED, State.UNDELIVERED, State.UNKNOWN}), states


def test_a_second_sigterm_ends_it_at_once_and_nothing_is_lost(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(silent=True)  # the drain waits for answers that do not come
    with SteadyLoad(gateway, retries_refused=True) as load:
        loaded(gateway, load, 50)
        process = gateway.process
        assert process is not None
        below = list(gateway.pids().values())
        process.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        assert process.poll() is None  # it waits
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(60) == 1
        assert time.monotonic() - began < 15  # at once; the drain has 27 more to go
        gateway.process = None
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in below), "all have ended")
    gateway.start()
    both_ready(gateway)
    all_reach_their_end(gateway, load, State.SUBMITTED)
    assert set(copies(gateway, load).values()) <= {1, 2}


def test_kill_9_of_the_supervisor_ends_both_workers(gateway):
    pids = gateway.pids()
    gateway.kill("supervisor")
    below = [pids[name] for name in ("worker-0", "worker-1", "postgres", "valkey")]
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in below), "all have ended")
    gateway.start()
    both_ready(gateway)
    message_id = gateway.accept(to="+8613800138000", text="又来了")
    gateway.wait_for_status(message_id, "delivered")


def test_one_worker_is_restarted_without_a_failed_request_too():
    """Its socket stays open in the supervisor: who comes meanwhile waits a moment."""
    with GatewayProcess(drain_before_s="1") as gateway:
        before = gateway.pids()["worker-0"]
        with SteadyLoad(gateway) as load:
            loaded(gateway, load, 200)
            done = gateway.command("restart")
            loaded(gateway, load, 200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 worker restarted" in done.stdout
        assert load.errors == []
        assert gateway.pids()["worker-0"] != before
        all_reach_their_end(gateway, load)
        each_once(gateway, load)


def test_nothing_illegal_happened_in_all_of_this(gateway):
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
