"""`smsgw top` against a small HTTP server: rates, no key, no terminal, and nodes that are none."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway import topscrape
from gateway.__main__ import main
from telemetry.metrics import Metrics, render

pytestmark = pytest.mark.integration
AWAY = "http://10.0.0.6:8081"


class Node(HTTPServer):
    """A small HTTP server that answers as a node does; what it says can be changed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.looks = 0
        self.says: tuple[int, bytes] | None = None

    def answer(self) -> tuple[int, bytes]:
        self.looks += 1
        return self.says or (200, numbers(self.looks))


class _Handler(BaseHTTPRequestHandler):
    server: Node

    def do_GET(self):
        status, body = self.server.answer()
        self.send_response(status if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def numbers(looks: int) -> bytes:
    metrics = Metrics()
    metrics.accepted_total.inc(("acme", "otp"), 2469 * looks)
    metrics.channel_state.set(("mobile-a", "up"), 1.0)
    return render(metrics.snapshot())


@pytest.fixture
def node():
    with Node() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SMSGW_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SMSGW_ADMIN_PORT", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def test_one_picture_as_one_json_document(node, capsys):
    assert main(["top", "--once", "--json", "--interval", "0.1", "--url", f"{node.url}/"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert node.looks == 2  # a rate is a difference
    assert told["traffic"]["accepted"] * told["span_s"] == pytest.approx(2469)
    assert told["nodes"][0]["url"] == node.url
    assert [channel["name"] for channel in told["channels"]] == ["mobile-a"]


def test_one_picture_without_a_terminal_and_without_a_key(node, monkeypatch, capsys):
    monkeypatch.setenv("SMSGW_ADMIN_PORT", str(node.server_port))
    assert main(["top", "--interval", "0.1"]) == 0
    told = capsys.readouterr().out
    assert f"● {node.url}" in told
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, b"", "answers 404 to /metrics: name the admin port"),
        (200, b"<html>\xff", "no gateway's /metrics: name a node's admin port"),
        (200, b"<html></html>", "no gateway's /metrics: name a node's admin port"),
    ],
)
def test_what_is_no_node_is_said_with_the_remedy(node, capsys, status, body, told):
    node.says = status, body
    assert main(["top", "--json", "--url", node.url]) == 1
    assert told in json.loads(capsys.readouterr().out)["nodes"][0]["fault"]


def test_a_node_that_is_away_hides_no_other_one(node, capsys, monkeypatch):
    def away(url):
        raise ConnectionRefusedError

    get = topscrape._get
    monkeypatch.setattr(topscrape, "_get", lambda url: (away if url == AWAY else get)(url))
    arguments = ["top", "--once", "--interval", "0.1", "--url", node.url, "--url", AWAY]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"✗ {AWAY}  nothing listens there: start the node" in told
    assert "mobile-a" in told
    assert main(["top", "--once", "--url", AWAY]) == 1
