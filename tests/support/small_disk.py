"""A gateway whose data directory, or a part of it, is a small file system that really fills up.

    unshare -U -m ─ a tmpfs on the data directory ─┬─ smsgw up --sandbox, in the same namespaces
                                                   └─ seen from outside in /proc/<pid>/root

The mount is made in a user and a mount namespace, so it needs no root and nobody else sees it. The
carriers' records, which judge, lie elsewhere: a carrier has a disk of its own.
"""

import os
import subprocess
from pathlib import Path

from tests.support.gateway_process import GatewayProcess

FILLER = "filler"
_HOLD = 'mount -t tmpfs -o size="$1",mode=700 smsgw "$2" && echo ready && exec sleep infinity'


def can_mount() -> bool:
    """Whether a file system can be mounted in namespaces of our own."""
    words = ["unshare", "-Urm", "mount", "-t", "tmpfs", "smsgw", "/tmp"]
    try:
        return subprocess.run(words, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


class SmallDisk(GatewayProcess):
    """A gateway with a disk of `size` bytes for `part` of its data directory, "" for all of it."""

    def __init__(self, size: int, part: str = "", **reliability: str) -> None:
        super().__init__(workers=1, **reliability)
        inside = self.data_dir
        small = inside / part
        small.mkdir(mode=0o700, exist_ok=True)
        self._holder = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", _HOLD, "sh", str(size), str(small)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as told:
            assert told.readline() == "ready\n"
        pid = str(self._holder.pid)
        self.launcher = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", pid)
        self.data_dir = Path(f"/proc/{pid}/root{inside}")
        self.disk = self.data_dir / part
        if not part:  # what was made there stands below the mount
            (self.data_dir / "sandbox").mkdir(mode=0o700)
            ports = (inside / "sandbox" / "ports.json").read_text("utf-8")
            (self.data_dir / "sandbox" / "ports.json").write_text(ports, "utf-8")
        records = self.folder / "carriers"
        records.mkdir(mode=0o700)
        (self.data_dir / "carriers").symlink_to(records)

    def close(self) -> None:
        """The mount goes with the last process in its namespace."""
        super().close()
        self._holder.kill()
        self._holder.wait()

    def used(self) -> float:
        """Used share of the disk, 0 to 1."""
        told = os.statvfs(self.disk)
        return 1 - told.f_bavail / told.f_blocks

    def fill(self, share: float) -> None:
        """A file of somebody else's takes blocks until so much is used; 1: the last one too."""
        told = os.statvfs(self.disk)
        wanted = (told.f_bavail - int(told.f_blocks * (1 - share))) * told.f_frsize
        handle = os.open(self.disk / FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            step = max(4096, wanted)
            while wanted > 0 and step >= 4096:
                size = os.fstat(handle).st_size
                try:
                    os.posix_fallocate(handle, size, min(step, wanted))
                except OSError:  # others took some meanwhile
                    step //= 2
                else:
                    wanted -= min(step, wanted)
                    if share == 1 and wanted <= 0:  # and others may have given some back
                        wanted, step = 1 << 30, min(step, 1 << 20)
        finally:
            os.close(handle)

    def free(self) -> None:
        """Somebody makes room."""
        (self.disk / FILLER).unlink()
