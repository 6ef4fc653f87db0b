"""Named places on the path where a test run may end, freeze or delay this process.

    SMSGW_FAILPOINT=accept.committed=kill:7     kill -9 of ourselves at the 7th hit of that place
    SMSGW_FAILPOINT=watch                       take such words from the file `armed`, as they come

A place stands in the code as

    if failpoints.is_armed:
        failpoints.hit("accept.committed")

and costs one look at an attribute while nothing is armed (0.02 µs), once per flush, burst or
request. What was armed acts once: a file in the data directory says so before it does, so that
the process that comes after does not die again. Only settings decide whether anything can be
armed at all (`--sandbox`, or told so by name).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Place to what has happened there and what has not; in the order of docs/PATH.md.
POINTS: Final[Mapping[str, str]] = {
    "door.parsed": "1: a send request is decoded; nothing was taken",
    "segment.done": "3: the text is cut into segments; nothing was taken",
    "admit.charged": "2: the tokens are taken; there is no id",
    "otp.counted": "2: otp messages are counted with all processes; there is no id",
    "choose.done": "7: the messages of a flush that can leave at once are chosen; nothing is sent",
    "accept.keyed": "4: the keys of a flush are inserted, no message is; nothing is committed",
    "accept.before_copy": "4: a flush is built, its claims with it; nothing was sent to the store",
    "accept.committed": "4: COMMIT was confirmed; nobody was told, no 202",
    "accept.in_doubt": "4: the connection was lost in COMMIT; nobody asked yet what became of it",
    "accept.told": "4: lanes and futures are told, bytes may be out; no 202 is written",
    "door.answered": "1: the 202 is with the kernel",
    "lanes.put": "5: committed messages stand in their lanes; nothing of them was submitted",
    "dispatch.claiming": "6: messages left their lane; their claim is in no flush yet",
    "dispatch.claimed": "6: a claim that did not ride with its accept is durable; nothing was sent",
    "choose.again": "7: messages are bound to another channel, theirs went down or came back",
    "submit.journaled": "8: the write line is there; no byte went out",
    "submit.written": "8: the bytes are with the kernel; no answer",
    "session.received": "9: a burst is read; nothing of it is noted",
    "settle.journaled": "10: the answer line is there; no row is made",
    "state.applied": "11: rows are applied to the messages in memory; they are in no flush",
    "settle.before_commit": "10: an event flush is built; nothing was sent to the store",
    "settle.committed": "10: its COMMIT was confirmed; no carrier answered, no webhook queued",
    "settle.answered": "10: the answers to a carrier's reports are with the kernel",
    "inbound.before_commit": "beside 10: texts from phones are read; nothing of them is stored",
    "inbound.committed": "beside 10: their COMMIT was confirmed; no carrier answered, nobody told",
    "notify.taken": "12: committed events stand in the webhook queues; nothing was sent",
    "notify.before_send": "12: a webhook request is about to be sent",
    "notify.sent": "12: the receiver took it; it is not marked",
    "notify.logged": "12: requests were made; the list of attempts does not have them yet",
    "notify.parked": "12: events that an endpoint did not take are parked",
    "marks.written": "12: the cursor and the low-water mark are in the process row",
    "spill.kept": "beside 5: accepted messages are kept as ids alone; no 202",
    "spill.read": "beside 5: ids are read back; their messages are in no lane",
    "schedule.due": "before 5: a page of scheduled messages is due; nothing of it is taken",
    "schedule.taken": "before 5: its rows are spilled messages' by a commit; no id is in memory",
    "commands.taken": "beside 5: what others ask of this process is read; nothing of it is done",
    "commands.applied": "beside 5: a command is carried out and committed; it is not answered",
    "commands.answered": "beside 5: the answers are committed; who asked is not woken",
    "handover.given": "beside 6: a block for another process is committed; it still stands here",
    "handover.taken": "beside 6: a block is ours by its claim; it is not read back",
    "takeover.seized": "after a death: the dead one's epoch is raised; nothing of it is moved",
    "takeover.moved": "after a death: a page of what it owed is ours by a commit; others are not",
    "takeover.settled": "after a death: its debts are settled; its journal still stands",
    "recover.decided": "after a start: what was found is decided; nothing of it is committed",
    "recover.committed": "after a start: recovery is committed; the old journal still stands",
    "recover.done": "after a start: the new journal is made; no channel is up, no request taken",
}
WATCH: Final = "watch"
_GRAMMAR = re.compile(
    r"(?P<point>[a-z_.]+)=(?P<action>kill|stop|exit|error|sleep:(?P<ms>[0-9]{1,6}))"
    r"(:(?P<hit>[1-9][0-9]{0,8}))?(#[0-9A-Za-z-]{1,40})?"
)
EXIT_CODE: Final = 86  # of `exit`


@dataclass(frozen=True, slots=True)
class Spec:
    """One armed place: what happens there, and at which hit of it."""

    text: str
    point: str
    action: str
    hit: int
    ms: int = 0


def parse(text: str) -> Spec:
    """`POINT=ACTION[:HIT][#TAG]`, ACTION one of kill stop exit error sleep:MS.

    The tag changes nothing: it makes two equal specs different ones, as each acts once. Raises
    ValueError with the remedy.
    """
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        raise ValueError(
            "must be POINT=ACTION[:HIT], ACTION one of kill stop exit error sleep:MS, "
            f"or {WATCH}; as accept.committed=kill:7"
        )
    point = found["point"]
    if point not in POINTS:
        raise ValueError(f"must name one of: {' '.join(POINTS)}")
    action = found["action"].partition(":")[0]
    return Spec(text, point, action, int(found["hit"] or 1), int(found["ms"] or 0))


class Failpoints:
    """What is armed in this process; one object per process, `failpoints`."""

    __slots__ = ("_directory", "_left", "_seen", "_spec", "is_armed", "is_watching")

    def __init__(self) -> None:
        self.is_armed = False
        self._spec: Spec | None = None
        self._left = 0
        self._directory = Path()
        self.is_watching = False
        self._seen = ""

    def arm(self, text: str, directory: Path) -> None:
        """Arm a spec unless it acted before, or watch `directory` for some.

        Raises ValueError for what is no spec, OSError when the directory cannot be made.
        """
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self.is_watching = text == WATCH
        if self.is_watching:
            self.look()
        else:
            self._arm(parse(text))

    def _arm(self, spec: Spec) -> None:
        self._spec, self._left = spec, spec.hit
        self.is_armed = not fired_file(self._directory, spec.text).exists()

    def look(self) -> None:
        """While watching: take what the file `armed` says now; nothing when it says nothing."""
        if not self.is_watching:
            return
        try:
            text = armed_file(self._directory).read_text("utf-8").strip()
        except FileNotFoundError:
            text = ""
        if text == self._seen:
            return
        self._seen = text
        self.is_armed = False
        if text:
            self._arm(parse(text))

    def disarm(self) -> None:
        """Forget what is armed."""
        self.is_armed = False
        self._spec = None

    def hit(self, point: str) -> None:
        """This place is reached; acts when it is the armed one and its hit has come."""
        spec = self._spec
        if not self.is_armed or spec is None or spec.point != point:
            return
        self._left -= 1
        if self._left > 0:
            return
        self.is_armed = False
        if _note(self._directory, spec):
            _ACTIONS[spec.action](spec)

    def hit_soon(self, point: str) -> None:
        """`hit` once what was just written to a socket is with the kernel.

        uvloop sends at the end of a turn of the loop what was written during it.
        """
        asyncio.get_running_loop().call_soon(self.hit, point)


def armed_file(directory: Path) -> Path:
    """Where a watching process looks for its next spec; written beside and renamed."""
    return directory / "armed"


def fired_file(directory: Path, text: str) -> Path:
    """What says that a spec has acted: `{"point", "pid", "at"}`, Unix seconds."""
    return directory / f"fired {text}"


def _note(directory: Path, spec: Spec) -> bool:
    """Say first that it acts; False when another process of the node was quicker."""
    try:
        handle = os.open(
            fired_file(directory, spec.text), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
        )
    except FileExistsError:
        return False
    told = {"point": spec.point, "pid": os.getpid(), "at": time.time()}
    os.write(handle, json.dumps(told).encode())
    os.close(handle)
    return True


def _kill(_: Spec) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: Spec) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _exit(_: Spec) -> None:
    os._exit(EXIT_CODE)


def _error(spec: Spec) -> None:
    raise RuntimeError(f"failpoint {spec.point}")


def _sleep(spec: Spec) -> None:
    time.sleep(spec.ms / 1000)  # the whole process stands still: that is what it is for


_ACTIONS: dict[str, Callable[[Spec], None]] = {
    "kill": _kill,
    "stop": _stop,
    "exit": _exit,
    "error": _error,
    "sleep": _sleep,
}

failpoints = Failpoints()
