"""An older version of this project, taken out of its own history.

loadtest/data/old-versions.json ─ commit ─▶ git archive ─▶ a folder that PYTHONPATH names
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
KNOWN: Final = ROOT / "loadtest" / "data" / "old-versions.json"
GIT_S: Final = 60.0


class NoHistory(Exception):
    """The old version cannot be had here; the text says why, and what helps."""


@dataclass(frozen=True, slots=True)
class OldVersion:
    """A version that upgrades are tried from."""

    commit: str
    newest_migration: str  # the newest one that it brings
    why: str  # what lies between it and now


def known() -> list[OldVersion]:
    """Every recorded version, the newest last."""
    return [OldVersion(**told) for told in json.loads(KNOWN.read_text("utf-8"))]


def unpack(commit: str, folder: Path, *, root: Path = ROOT) -> Path:
    """The version's files below `folder`, which is made. Raises NoHistory with the remedy."""
    if not (root / ".git").exists():
        raise NoHistory(f"{root.name} is no clone of the repository: clone it to get {commit[:12]}")
    archive = _git(root, "archive", "--format=tar", commit)
    if archive is None:
        is_shallow = _git(root, "rev-parse", "--is-shallow-repository") == b"true\n"
        remedy = "git fetch --unshallow" if is_shallow else f"git fetch origin {commit}"
        raise NoHistory(f"commit {commit[:12]} is not in this clone: {remedy}")
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _git(root: Path, *words: str) -> bytes | None:
    """What git says; None when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            # whoever cloned it may be another user, in a container: only read, it is safe
            ["git", "-c", "safe.directory=*", "-C", str(root), *words],  # noqa: S607
            capture_output=True,
            timeout=GIT_S,
            check=False,
        )
    except FileNotFoundError:
        raise NoHistory("git is not installed: the old version comes out of the history") from None
    return done.stdout if done.returncode == 0 else None
