"""Secrets of a configuration file: given in it, or in files beside it, or still to be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_MAX_SECRET_FILE = 65_536
Complain = Callable[[str, str], None]  # pointer, what to do


class SecretFiles:
    """Reads `x` and `x_file` of the objects of one file; makes nothing."""

    def __init__(self, base_dir: Path, complain: Complain) -> None:
        self._base_dir = base_dir
        self._complain = complain
        self._planned: set[Path] = set()

    def read(self, good: Mapping[str, Any], pointer: str, name: str) -> str | Path | None:
        """The secret, or the path of a file that does not exist, or None when neither is given."""
        plain = good.get(name)
        file = good.get(f"{name}_file")
        if plain is not None and file is not None:
            self._complain(pointer, f"has both `{name}` and `{name}_file`; remove one of them")
            return None
        if file is None:
            return str(plain) if plain is not None else None
        at = f"{pointer}/{name}_file"
        path = self._base_dir / str(file)
        try:
            with path.open("rb") as handle:
                content = handle.read(_MAX_SECRET_FILE + 1).decode().strip("\r\n")
        except FileNotFoundError:
            self._plan(path, at)
            return path
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._complain(at, f"cannot be read ({cause}); correct the file")
            return None
        if not content:
            self._complain(at, "names an empty file; put the secret into it")
        elif len(content) > _MAX_SECRET_FILE:
            self._complain(at, f"names a file of more than {_MAX_SECRET_FILE} octets; shorten it")
            content = ""
        return content or None

    def forget(self, path: Path) -> None:
        """The file is not made after all."""
        self._planned.discard(path)

    def _plan(self, path: Path, pointer: str) -> None:
        """The file may have to be made: nobody else makes it, and its folder is there."""
        if path in self._planned:
            self._complain(pointer, "is the file of another entry too; give each its own")
        elif not path.parent.is_dir():
            self._complain(pointer, "lies in a folder that does not exist; make the folder")
        self._planned.add(path)
