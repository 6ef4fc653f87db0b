"""What the house asks of every room and no other tool checks.

The import contracts themselves are import-linter's (`make check`); here stands that no room
escapes them, and which third-party packages a room may use (docs/decisions/0004).
"""

import ast
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOT_ROOMS = {"tests", "docs", "deploy", "build", "dist"}
ROOMS = sorted(
    path.name
    for path in ROOT.iterdir()
    if path.is_dir()
    and path.name.isidentifier()
    and path.name not in NOT_ROOMS
    and any(path.rglob("*.py"))
)
THIRD_PARTY: dict[str, set[str]] = {
    "adapters": set(),  # and aiohttp in adapters/http/client.py, with its type of addresses
    "cluster": {"redis"},
    "compliance": {"ahocorasick_rs"},
    "console": {"fastapi"},
    "failover": set(),
    "ratelimit": {"redis"},
    "receipts": set(),
    "sms": set(),
    "store": {"asyncpg", "cryptography", "psutil", "redis"},  # the last two: embedded servers
    "telemetry": {"prometheus_client", "structlog"},
    "webhooks": {"aiohttp", "multidict", "yarl"},  # aiohttp's own types
}
MAX_LINES = 800


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def contracts() -> Any:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["tool"]["importlinter"]


def test_every_room_is_under_the_import_contracts():
    assert sorted(contracts()["root_packages"]) == ROOMS


def test_every_room_stands_in_a_layer():
    [layers] = [c["layers"] for c in contracts()["contracts"] if c["id"] == "layers"]
    named = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    assert set(ROOMS) <= named


def test_every_room_but_store_is_forbidden_asyncpg():
    [sources] = [c["source_modules"] for c in contracts()["contracts"] if c["id"] == "asyncpg"]
    assert sorted({*sources, "store"}) == ROOMS


@pytest.mark.parametrize("room", sorted(set(ROOMS) & set(THIRD_PARTY)))
def test_a_room_uses_only_the_packages_it_may(room):
    own = set(sys.stdlib_module_names) | set(ROOMS)
    for path in sources(room):
        allowed = own | THIRD_PARTY[room]
        if path == ROOT / "adapters" / "http" / "client.py":
            allowed = allowed | {"aiohttp", "yarl"}
        assert imported(path) <= allowed, path.relative_to(ROOT)


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_too_long_and_every_package_says_what_it_is(room):
    assert (ROOT / room / "__init__.py").exists()
    for path in sources(room):
        text = path.read_text()
        assert text.count("\n") <= MAX_LINES, path.relative_to(ROOT)
        assert ast.get_docstring(ast.parse(text)), path.relative_to(ROOT)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_the_lock_files_name_no_host_and_no_path(name):
    text = (ROOT / name).read_text()
    assert "--hash=sha256:" in text
    assert "://" not in text
    assert "file:" not in text
    assert "--index" not in text
    assert " @ " not in text


def test_the_development_lock_holds_the_runtime_lock():
    lines = [
        {line for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    assert lines[0] <= lines[1]
