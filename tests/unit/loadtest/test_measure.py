import os

import pytest

from loadtest.measure import (
    GROUPS,
    Spread,
    Usage,
    cpu_between,
    group_of,
    postgres_kind,
    spread,
    usage,
)


@pytest.mark.parametrize(
    ("name", "args", "group"),
    [
        ("postgres", ["/x/bin/postgres", "-D", "/data/postgres"], "postgres"),
        ("postgres", ["postgres: smsgw postgres [local] COPY"], "postgres"),
        ("valkey-server", ["/x/valkey-server unixsocket:/data/run/valkey.sock"], "valkey"),
        ("python", ["/v/bin/python", "-P", "-m", "gateway", "worker"], "worker"),
        ("python", ["/v/bin/python", "-m", "gateway", "up", "--sandbox"], "supervisor"),
        ("python", ["/v/bin/python", "-m", "loadtest.carrier", "--name", "gateway"], "carriers"),
        ("python", ["/v/bin/python", "-m", "loadtest.sink", "--port", "1"], "sink"),
        ("sh", ["sh", "-c", "true"], "other"),
        ("zombie", [], "other"),
    ],
)
def test_processes_are_told_apart_by_how_they_were_started(name, args, group):
    assert group_of(name, args) == group


def test_spread_is_by_rank():
    assert spread([]) == Spread(0.0, 0.0, 0.0, 0)
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert spread([float(n) for n in range(100, -1, -1)]) == Spread(50.0, 99.0, 100.0, 101)


def test_our_own_process_has_used_cpu():
    seen = usage(os.getpid())
    assert sum(seen.cpu_s.values()) > 0
    assert os.getpid() in set().union(*seen.pids.values())


def taken(cpu_s, **pids):
    return Usage(
        dict.fromkeys(GROUPS, cpu_s),
        dict.fromkeys(GROUPS, 0),
        {group: frozenset(pids.get(group, {1})) for group in GROUPS},
    )


def test_backends_may_come_and_go_while_it_is_measured():
    used = cpu_between(taken(1.0, postgres={1, 2}), taken(1.5, postgres={1, 3}))
    assert used["postgres"] == pytest.approx(0.5)


def test_a_restarted_worker_spoils_the_measurement():
    with pytest.raises(RuntimeError, match="worker was restarted"):
        cpu_between(taken(1.0, worker={7}), taken(0.2, worker={8}))


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("postgres: checkpointer ", "checkpointer"),
        ("postgres: autovacuum worker growth_full", "autovacuum"),
        ("postgres: smsgw growth_full [local] COPY", "backend"),
        ("/opt/pg/bin/postgres", "postmaster"),
    ],
)
def test_postgres_processes_are_told_apart(title, kind):
    assert postgres_kind([title]) == kind
