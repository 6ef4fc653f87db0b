"""The clients in docs/signing.md run as they stand there, against the real HTTP protocol."""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gateway.api.app import build_doors
from gateway.http_protocol import Connections, GatewayHttp
from sms.config import ApiKey
from sms.ids import to_text
from tests.support.fake_flow import SHOP, FakeFlow

pytestmark = pytest.mark.integration

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = json.loads((DOCS / "signing-vectors.json").read_text("utf-8"))
SECRET = VECTORS["signing_secret"]
MESSAGE = {"to": "+8613800138000", "text": "验证码 482913", "class": "otp"}
KEY = to_text("key", 500)


def block(language):
    text = (DOCS / "signing.md").read_text("utf-8")
    [found] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture
async def served():
    """(URL, flow) of a gateway that accepts signed requests of `KEY`."""
    flow = FakeFlow()
    key = ApiKey(500, "signer", SHOP, frozenset({"send"}), b"", signing_secret=SECRET.encode())
    flow.snapshot = replace(flow.snapshot, api_keys={500: key})
    app, door = build_doors(flow)
    protocol: Any = partial(GatewayHttp, door=door, shared=Connections(100))
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, ws="none")
    server: Any = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", flow
        server.should_exit = True
        await serving


async def run(*command, cwd=None):
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=60, cwd=cwd, check=False
    )


async def test_the_python_client_is_accepted(served):
    url, flow = served
    program = f"{block('python')}\nimport sys\nprint(send(*sys.argv[1:4], json.loads(sys.argv[4])))"
    command = [sys.executable, "-c", program, url, KEY, SECRET, json.dumps(MESSAGE)]
    for _ in range(2):
        told = await run(*command)
        assert b"msg_" in told.stdout, told.stderr.decode()
    command[5] = SECRET[:-1] + "0"
    assert b"401" in (await run(*command)).stderr
    assert [len(batch) for batch in flow.accepted] == [1, 1]


def test_the_python_client_has_ten_lines():
    body = block("python").partition("def send")[2].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 10


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler here")
async def test_the_java_client_is_accepted(served, tmp_path):
    url, flow = served
    main = """
    class Main {
        public static void main(String[] a) throws Exception {
            System.out.println(SignedSend.send(a[0], a[1], a[2], a[3]));
        }
    }
    """
    (tmp_path / "SignedSend.java").write_text(block("java"), "utf-8")
    (tmp_path / "Main.java").write_text(textwrap.dedent(main), "utf-8")
    compiled = await run(
        "javac", "-encoding", "UTF-8", "Main.java", "SignedSend.java", cwd=tmp_path
    )
    assert compiled.returncode == 0, compiled.stderr.decode()
    java = ("java", "-Dfile.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8", "-cp", str(tmp_path))
    told = await run(*java, "Main", url, KEY, SECRET, json.dumps(MESSAGE))
    assert b"msg_" in told.stdout, told.stdout.decode() + told.stderr.decode()
    assert len(flow.accepted) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["shows"])
async def test_openssl_makes_the_published_signatures(vector):
    told = await asyncio.to_thread(
        subprocess.run,
        ["openssl", "dgst", "-sha256", "-hmac", SECRET],
        input=vector["string_to_sign"].encode(),
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert told.stdout.decode().split()[-1] == vector["headers"]["X-Smsgw-Signature"]
