"""A PostgreSQL cluster that is made and migrated once a session, and copied for each gateway.

Making one takes a second, and dozens of gateways start in a session. What a first start does is
proven where it is the subject: tests/integration/test_sandbox.py and test_embedded.py.
"""

import asyncio
import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from store.embedded import EmbeddedServers
from store.schema import migrate

ROOT = Path(__file__).parents[2]


def lay(data_dir: Path) -> None:
    """A migrated cluster for a data directory that has none."""
    shutil.copytree(_made(), data_dir / "postgres")


@functools.cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="smsgw-made-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # a process of its own: who asks may have an event loop, or not be the main thread
    command = [sys.executable, "-m", "tests.support.cluster", str(folder / "d")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return folder / "d" / "postgres"


def main() -> None:
    """Make one in the directory that is given."""
    servers = EmbeddedServers(Path(sys.argv[1]), wanted=("postgres",))
    endpoints = servers.start()
    try:
        asyncio.run(migrate(endpoints.database_url))
    finally:
        servers.stop()


if __name__ == "__main__":
    main()
