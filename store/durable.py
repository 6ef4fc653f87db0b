"""Small files that must outlive a power cut: written once, whole, or not there at all.

A new file is durable when its content and its directory's entry both are; the first without the
second is a file that a power cut takes away, the second without the first an empty one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_once(path: Path, data: bytes) -> None:
    """Make a file of mode 0600 that holds exactly this; durable when it returns.

    Raises FileExistsError when there is one already, OSError for other trouble.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):  # of a process with our pid that was killed here
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        draft.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: files made, renamed or removed there."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
