"""`smsgw` with a worker that only answers: for tests of the supervisor alone.

As a command it is `python -m tests.support.fake_up up …`; its worker is this file again with the
word `worker`. The worker's door answers `GET /pid`, and `GET /die` ends it; FAKE_WORKER in the
environment makes it `broken` (exit code 2), `dying` (exit code 1) or `stubborn` (no SIGTERM);
`dying-1` is so in slot 1 only; FAKE_UPKEEP_S: seconds until the first round of upkeep. While a
file `unready` stands in the data directory, who starts does not get ready.
"""

import json
import os
import signal
import socket
import sys
import threading
from unittest.mock import patch

from gateway import supervisor, up
from gateway.__main__ import main
from gateway.settings import Settings


def answer(connection, body):
    """One HTTP answer, then close."""
    head = f"HTTP/1.0 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    connection.close()


def serve_internal(settings):
    """What the supervisor asks."""
    path = settings.run_dir / f"worker-{settings.worker_slot}.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    missing = ["nothing works"] if (settings.data_dir / "unready").exists() else []
    told = {
        "metrics": {"accepted_total": [[["shop", "otp"], [5.0]]]},
        "ready": not missing,
        "serving": not missing,
        "missing": missing,
    }
    while True:
        connection, _ = listener.accept()
        connection.recv(4096)
        answer(connection, json.dumps(told).encode())


def worker():
    """Serve one connection after the other on the inherited socket."""
    settings = Settings.load()
    how = os.environ.get("FAKE_WORKER", "").removesuffix(f"-{settings.worker_slot}")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if how in ("broken", "dying"):
        sys.stderr.write(f"worker is {how}\n")
        raise SystemExit(2 if how == "broken" else 1)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=serve_internal, args=(settings,), daemon=True).start()
    if not settings.listen_fds:
        threading.Event().wait()
    listener = socket.socket(fileno=settings.listen_fds[0])
    listener.setblocking(True)
    while True:
        connection, _ = listener.accept()
        if b"/die" in connection.recv(4096):
            os._exit(1)
        answer(connection, json.dumps({"pid": os.getpid(), "slot": settings.worker_slot}).encode())


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker()
    upkeep_s = float(os.environ.get("FAKE_UPKEEP_S", supervisor.UPKEEP_FIRST_S))
    with (
        patch.object(up, "WORKER", ("-m", "tests.support.fake_up", "worker")),
        patch.object(supervisor, "UPKEEP_FIRST_S", upkeep_s),
    ):
        sys.exit(main())
