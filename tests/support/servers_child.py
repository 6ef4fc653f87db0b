"""Run embedded servers in a process of its own, as another user when asked; for kills in tests.

argv: data_dir uid [orphans]; prints one JSON line when ready; ends them when stdin closes.
With `orphans` the parent-death signal is left out, as on a system that does not have it.
"""

import json
import os
import sys
from pathlib import Path

import store.embedded
import store.spawn


class _NoDeathSignal:
    def __init__(self, libc):
        self.unshare = libc.unshare

    def prctl(self, *_):
        return 0


def main():
    """Start, tell, wait, stop."""
    data_dir, uid = Path(sys.argv[1]), int(sys.argv[2])
    if "orphans" in sys.argv:
        vars(store.spawn)["_LIBC"] = _NoDeathSignal(store.spawn._LIBC)
    store.spawn.foreign_uid()  # the interpreter may be out of reach afterwards
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    os.umask(0o022)
    servers = store.embedded.EmbeddedServers(
        data_dir, may_use_namespace="no-namespace" not in sys.argv
    )
    endpoints = servers.start()
    told = {"db": endpoints.database_url, "redis": endpoints.redis_url, "pids": servers.pids()}
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    servers.stop()


if __name__ == "__main__":
    main()
