"""Start a child process that dies with its parent and, where asked, is not root.

Everything special happens between fork and exec, in this order, because each step undoes the
next one when swapped: the identity first (a change of credentials clears the parent-death
signal), the parent-death signal second, the look whether the parent is still there last.
`PR_SET_PDEATHSIG` follows the *thread* that forked, so call `spawn` from the main thread only.

PostgreSQL refuses to run as root. In a user namespace that maps one foreign uid to ours the
child sees itself as that uid while its files stay ours: nothing is chowned, no user is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_NOBODY = 65534
_NOT_TAKEN = 255
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # before any fork


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the child is: as we are, `seen_as` another uid by namespace, or `real` another uid."""

    seen_as: int | None = None
    real: int | None = None


AS_WE_ARE = Identity()


def foreign_uid() -> int:
    """A uid with a name that is not root's: `nobody`, else the first one in the list."""
    try:
        return pwd.getpwuid(_NOBODY).pw_uid
    except KeyError:
        others = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0]
        return others[0] if others else _NOBODY


def has_name(uid: int) -> bool:
    """Whether the user list knows this uid (initdb insists; `docker run -u 12345` has none)."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _become(identity: Identity) -> None:
    if identity.seen_as is not None:
        uid, gid = os.geteuid(), os.getegid()
        if _LIBC is None or _LIBC.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "user namespaces are forbidden here")
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (identity.seen_as, uid))
        Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (identity.seen_as, gid))
    elif identity.real is not None:
        os.setgroups([])
        os.setgid(identity.real)
        os.setuid(identity.real)


def _before_exec(identity: Identity, death_signal: int, parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _become(identity)
        # Told to all processes of a service (a reload), it must not end one that is starting.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:  # it died before we asked to be told
                os._exit(1)

    return prepare


def spawn(
    args: Sequence[str],
    *,
    death_signal: signal.Signals,
    log: int,
    env: Mapping[str, str],
    identity: Identity = AS_WE_ARE,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `args` in a session of its own (Ctrl-C reaches only us); output goes to fd `log`."""
    return subprocess.Popen(  # noqa: S603 - the callers build `args` from found binaries
        args,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(env),
        pass_fds=tuple(pass_fds),
        start_new_session=True,
        preexec_fn=_before_exec(identity, death_signal, os.getpid()),  # noqa: PLW1509 - see top
    )


def first_out_of_reach(identity: Identity, paths: Sequence[Path]) -> Path | None:
    """The first of `paths` that a child with this identity cannot use, or None.

    Raises OSError when the identity itself cannot be taken (namespaces forbidden). Directories
    must be writable, files executable. Asked of the kernel by a forked child, since mode bits
    alone do not say what a namespace or a security module allows.
    """
    wanted = [os.R_OK | os.X_OK | (os.W_OK if path.is_dir() else 0) for path in paths]
    pid = os.fork()
    if pid == 0:  # the child: nothing but system calls, then _exit
        code = _NOT_TAKEN
        with contextlib.suppress(OSError):
            _become(identity)
            # access(2) looks without the capabilities that exec will drop
            reached = [os.access(path, mode) for path, mode in zip(paths, wanted, strict=True)]
            code = reached.index(False) + 1 if False in reached else 0
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not 0 <= code <= len(paths):
        raise OSError("this identity cannot be taken here")
    return paths[code - 1] if code else None


def started_at(pid: int) -> float | None:
    """When the running process `pid` started (Unix seconds); None when there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except (psutil.Error, ValueError):
        return None


def is_same(pid: int, started: float) -> bool:
    """Whether `pid` is still the process that started then (pids are used again)."""
    now = started_at(pid)
    return now is not None and abs(now - started) < 5  # clock steps move the computed start


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Wait until a process that is not our child has ended."""
    end = time.monotonic() + timeout_s
    while started_at(pid) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
