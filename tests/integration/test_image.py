"""The image without an engine: the Dockerfile's steps, run as uid 10001 on a tree nobody may write.

What the image is made of comes from the same files that an engine reads: `.dockerignore` says what
goes in, `deploy/install.sh` holds the steps, and the Dockerfile's own lines are compared with them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest

from tests.support.gateway_process import eventually, free_ports

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
UID = 10001
STEPS = ["sh install.sh packages /opt/smsgw", "sh deploy/install.sh gateway /opt/smsgw"]
STOP_S = 40  # a drain takes 30 s at most


def dockerfile(instruction):
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)


def context():
    """The names that `.dockerignore` lets in."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    names = [line[1:] for line in lines if line.startswith("!")]
    return [name for name in names if (ROOT / name).exists()]  # console/ has nothing yet


def as_nobody(*words):
    """The command, run as uid 10001 as far as it can see; a namespace, as the interpreter of a
    developer or of CI may lie where another user cannot reach it.
    """
    return ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}", *words]


def can_be_nobody():
    try:
        found = subprocess.run(as_nobody("id", "-u"), check=False, capture_output=True, text=True)
    except OSError:
        return False
    return found.stdout.strip() == str(UID)


@pytest.fixture
def place():
    top = Path(tempfile.mkdtemp(prefix="smsgw-image-"))
    yield top
    for path in (top, *(found for found in top.rglob("*") if found.is_dir())):
        path.chmod(0o755)
    shutil.rmtree(top)


@pytest.fixture
def image(place):
    """The image's /opt/smsgw, nobody's to write."""
    source, prefix = place / "src", place / "opt" / "smsgw"
    for name in context():
        where = ROOT / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if where.is_dir():
            shutil.copytree(where, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(where, source / name)
    env = {**os.environ, "PYTHON": sys.executable, "PIP_NO_CACHE_DIR": ""}
    for step in ("packages", "gateway"):
        done = subprocess.run(
            ["sh", "deploy/install.sh", step, str(prefix)],
            check=False,
            cwd=source,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(source)  # the second stage of the Dockerfile takes the environment alone
    subprocess.run(["chmod", "-R", "a-w", prefix], check=True)
    return prefix


def tree(prefix):
    return sorted(str(path.relative_to(prefix)) for path in prefix.rglob("*"))


def test_the_dockerfile_runs_the_same_steps():
    assert [step for step in dockerfile("RUN") if "install.sh" in step] == STEPS
    assert dockerfile("USER") == [f"{UID}:{UID}"]
    assert dockerfile("ENTRYPOINT") == ['["smsgw"]']


@pytest.mark.skipif(not can_be_nobody(), reason="user namespaces are not to be had here")
def test_the_image_sends_as_nobody_on_a_tree_that_it_cannot_write(image, place):
    before = tree(image)
    assert not [name for name in before if re.search(r"/(pip|setuptools)$", name)]
    data = place / "data"
    data.mkdir(mode=0o700)
    port, admin_port = free_ports(2)
    env = {
        "PATH": f"{image}/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(data),
        "SMSGW_DATA_DIR": str(data),
        "SMSGW_PORT": str(port),
        "SMSGW_ADMIN_PORT": str(admin_port),
        "SMSGW_RELIABILITY__MARKETING_OPENS_H": "0",
        "SMSGW_RELIABILITY__MARKETING_CLOSES_H": "24",
    }
    output = place / "output"
    with output.open("wb") as told:
        gateway = subprocess.Popen(
            as_nobody("smsgw", "up", "--sandbox"), cwd=data, env=env, stdout=told, stderr=told
        )

    def is_alive():
        assert gateway.poll() is None, output.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=2) as got:
                return got.status == 200
        except OSError:
            return False

    def smsgw(*words):
        done = subprocess.run(
            as_nobody("smsgw", *words),
            check=False,
            cwd=data,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        eventually(is_alive, "the gateway is ready")
        assert Path(f"/proc/{gateway.pid}/uid_map").read_text().split()[0] == str(UID)
        sent = smsgw("send", "+8613800138000", "from the image")
        (message_id,) = set(re.findall(r"msg_\w+", sent))
        eventually(lambda: "delivered" in smsgw("status", message_id), "delivered", step_s=0.5)
    finally:
        gateway.terminate()
        code = gateway.wait(STOP_S)
    assert code == 0, output.read_text()[-2000:]
    assert tree(image) == before
