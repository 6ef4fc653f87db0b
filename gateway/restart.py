"""`smsgw restart`: the workers one after another, while the gateway goes on answering.

    ask run/supervisor.sock how it stands ─▶ SIGUSR1 to its pid ─▶ ask until the round is over

The work is the supervisor's: this command only asks for it and tells how it goes, so ending it
early stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.check import database_address
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError, StoreUnavailable, Unavailable
from store.embedded import existing_run_directory
from store.schema import must_fit_code

FAILED = 1  # exit code: the restart stopped on its way
_ASK_TIMEOUT_S = 5.0
_LOOK_S = 0.1
_PATIENCE_S = 10.0  # without any answer of the supervisor

_WORDS = {
    "waiting": "waiting for another worker that is ready",
    "draining": "waiting for what is under way",
    "starting": "the next one starts",
}

Json = Mapping[str, Any]


def restart(settings: Settings, terminal: Terminal) -> int:
    """Restart the workers of the gateway on this data directory; 0 = all are new and ready.

    Raises ConfigError when none runs there or the schema is too old for the code on the disk,
    Unavailable when it ends or falls silent meanwhile.
    """
    supervisor = _Supervisor(settings)
    _must_fit_schema(settings)
    before = supervisor.ask()
    wanted = before["finished"] + 1 + (before["running"] is not None)
    os.kill(supervisor.pid, signal.SIGUSR1)
    if before["running"] is not None:
        terminal.step("a restart is under way; this one follows it")
    told = _Told(terminal, wanted)
    for state in supervisor.states():
        told.look(state)
        ended = next((one for one in state["rounds"] if one["number"] == wanted), None)
        if ended is not None:
            return told.end(ended)
    raise Unavailable("the gateway ended before the restart was over")


def _must_fit_schema(settings: Settings) -> None:
    """The new workers run what is on the disk now: they would refuse a schema of before.

    Raises ConfigError with the remedy; a database that is away refuses nothing here.
    """
    dsn = database_address(settings)
    if dsn is not None:
        with contextlib.suppress(StoreUnavailable):
            asyncio.run(must_fit_code(dsn))


class _Supervisor:
    """The supervisor of a data directory: its pid and its answers."""

    def __init__(self, settings: Settings) -> None:
        data_dir = settings.data_dir
        run_dir = existing_run_directory(data_dir)
        nobody = ConfigError(
            f"no gateway runs on {data_dir}: start it with `smsgw up`, or set SMSGW_DATA_DIR"
        )
        if run_dir is None:
            raise nobody
        self._socket = run_dir / "supervisor.sock"
        try:
            self.pid = int(settings.lock_file.read_text("utf-8"))
        except (OSError, ValueError):
            raise nobody from None
        try:
            with self._connect() as peer:
                listener = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            raise nobody from None
        if struct.unpack("3i", listener)[0] != self.pid:  # 0, or another number, in a container
            raise ConfigError(
                f"the gateway on {data_dir} runs in another container: run the command in there"
            )

    def _connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(_ASK_TIMEOUT_S)
        try:
            peer.connect(str(self._socket))
        except OSError:
            peer.close()
            raise
        return peer

    def ask(self) -> Json:
        """How the restart stands; raises Unavailable when there is no answer."""
        try:
            with self._connect() as peer:
                peer.sendall(b"GET /restart HTTP/1.0\r\nHost: localhost\r\n\r\n")
                parts = iter(lambda: peer.recv(65536), b"")
                head, _, body = b"".join(parts).partition(b"\r\n\r\n")
            if head.split()[1:2] != [b"200"]:
                raise Unavailable("this supervisor cannot restart workers: stop and start it")
            told: Json = json.loads(body)
        except (OSError, ValueError):
            raise Unavailable(
                "the supervisor does not answer yet; once it is up, try again"
            ) from None
        return told

    def states(self) -> Iterator[Json]:
        """Its answers, one after the other; ends when it is gone."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(Unavailable):
                state = self.ask()
                if state["pid"] != self.pid:
                    return
                until = time.monotonic() + _PATIENCE_S
                yield state
            time.sleep(_LOOK_S)


class _Told:
    """What was said already, so that each thing is said once."""

    def __init__(self, terminal: Terminal, wanted: int) -> None:
        self._terminal = terminal
        self._wanted = wanted
        self._phase: tuple[str, str] | None = None
        self._steps = 0

    def look(self, state: Json) -> None:
        """Say what is new."""
        running = state["running"]
        if running is None or running["number"] != self._wanted:
            return
        self._say_steps(running["steps"])
        phase = (running["worker"], running["phase"])
        if phase != self._phase:
            self._phase = phase
            worker, word = phase
            what = _WORDS.get(word, word)
            self._terminal.say(f"{worker}: {what} …", "progress", worker=worker, phase=word)

    def _say_steps(self, steps: list[Json]) -> None:
        for step in steps[self._steps :]:
            how = "killed, it did not drain," if step["killed"] else "drained"
            line = (
                f"{step['worker']}: {how} in {step['drain_s']:g} s, "
                f"ready after {step['start_s']:g} s"
            )
            if step["missing"]:
                line += f"; as before it lacks: {'; '.join(step['missing'])}"
            self._terminal.say(line, "progress", phase="done", **step)
        self._steps = max(self._steps, len(steps))

    def end(self, ended: Json) -> int:
        """The last word; the exit code."""
        self._say_steps(ended["steps"])
        if ended["error"]:
            self._terminal.say(f"stopped: {ended['error']}", "failed", error=ended["error"])
            return FAILED
        count, seconds = len(ended["steps"]), ended["seconds"]
        self._terminal.say(
            f"{count} worker{'s' * (count != 1)} restarted in {seconds:g} s",
            "restarted",
            workers=count,
            seconds=seconds,
        )
        return 0
