"""`smsgw send` and `smsgw status`: the gateway's API from a terminal.

They speak HTTP to `SMSGW_URL` (default: what `sandbox.json` says, else this machine) with the key
in `SMSGW_API_KEY_FILE` (default: the sandbox's).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import shutil
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError

TIMEOUT_S = 15.0
REFUSED = 1  # exit code: the gateway said no

Json = Mapping[str, Any]
_NOT_HERE = (
    "\nwhere I looked: {url}, with a key that sees its own tenant's messages only; another gateway "
    "is SMSGW_URL, another key SMSGW_API_KEY_FILE"
)


@dataclass(frozen=True, slots=True)
class Door:
    """Where the gateway is and with which key we come."""

    url: str
    key: str

    def request(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Status and JSON of one request; raises ConfigError when nobody answers.

        Straight to the address, past any proxy of the environment: the key is in it.
        """
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        payload = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, parts.path + path, payload, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(f"{self.url}: {error.verify_message}; see SSL_CERT_FILE") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConfigError(
                f"the gateway at {self.url} does not answer ({type(error).__name__}): "
                "start it with `smsgw up`, or set SMSGW_URL"
            ) from None
        finally:
            connection.close()


def find_door(settings: Settings) -> Door:
    """Address and key out of the settings or the sandbox's file; raises ConfigError."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        told = json.loads(settings.sandbox_file.read_text("utf-8"))
    scheme = "https" if settings.tls_cert_file else "http"
    url = settings.url or told.get("url") or f"{scheme}://127.0.0.1:{settings.port}"
    if settings.api_key_file is not None:
        key = _read_key(settings.api_key_file)
    else:
        key = told.get("api_key", "")
    if not key:
        raise ConfigError(
            f"no API key: set SMSGW_API_KEY_FILE to a file that holds one, or SMSGW_DATA_DIR to "
            f"a sandbox's data directory ({settings.sandbox_file} is not there)"
        )
    return Door(url, key)


def _read_key(path: Path) -> str:
    try:
        key = path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"SMSGW_API_KEY_FILE: {path}: {error.strerror}") from None
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"SMSGW_API_KEY_FILE: {path} does not hold a key")
    return key


def send(settings: Settings, body: Json, terminal: Terminal) -> int:
    """Send one message and show the answer; 0 = accepted, 1 = refused."""
    status, told = find_door(settings).request("POST", "/v1/messages", body)
    if terminal.is_json:
        terminal.raw(told)
    elif status == 202:
        count = told["segments"]
        terminal.say(
            f"{told['id']}\naccepted for {told['to']}: {count} segment{'s' * (count != 1)}, "
            f"{told['encoding']}\nsee it with: {command_line(settings)} status {told['id']}",
            "accepted",
        )
    else:
        terminal.say(_refusal(status, told), "refused")
    return 0 if status == 202 else REFUSED


def command_line(settings: Settings) -> str:
    """How to call `smsgw` from another terminal in the same directory: what to type before it."""
    called = Path(sys.argv[0])
    on_path = shutil.which("smsgw")
    if called.name != "smsgw":  # python -m gateway
        command = "smsgw" if on_path else f"{shlex.quote(sys.executable)} -m gateway"
    elif on_path and Path(on_path).absolute() == called.absolute():
        command = "smsgw"
    else:
        with contextlib.suppress(ValueError):
            called = called.absolute().relative_to(Path.cwd())
        command = shlex.quote(str(called))
    if settings.data_dir == Path(".smsgw").absolute():
        return command
    return f"SMSGW_DATA_DIR={shlex.quote(str(settings.data_dir))} {command}"


def _refusal(status: int, told: Json) -> str:
    detail = told.get("detail") or told["title"]
    lines = [f"refused ({status} {told.get('code', '')}): {detail}"]
    for error in told.get("errors", []):
        if error.get("detail") != detail:
            lines.append(f"  {error.get('pointer', '')}: {error.get('detail', '')}")
    if told.get("action"):
        lines.append(f"what to do: {told['action']}")
    return "\n".join(lines)


def status(settings: Settings, message_id: str, terminal: Terminal, *, with_timeline: bool) -> int:
    """Show where a message stands and, when asked, everything that happened to it."""
    door = find_door(settings)
    path = f"/v1/messages/{quote(message_id, safe='')}"
    code, message = door.request("GET", path)
    steps: list[Json] = []
    if code == 200 and with_timeline:
        code, told = door.request("GET", f"{path}/timeline")
        steps = told.get("data", [])
        if code != 200:
            message = told
    if terminal.is_json:
        is_whole = with_timeline and code == 200
        terminal.raw({**message, "timeline": steps} if is_whole else message)
    elif code != 200:
        hint = _NOT_HERE.format(url=door.url) if code == 404 else ""
        terminal.say(_refusal(code, message) + hint, "refused")
    else:
        terminal.say(
            "\n".join([*_standing(message), *_timeline(steps, message["segments"])]), "status"
        )
    return 0 if code == 200 else REFUSED


def _standing(message: Json) -> list[str]:
    lines = [f"{message['id']}  {message['status']}"]
    shown = {
        "to": message.get("to"),
        "class": message.get("class"),
        "channel": message.get("channel"),
        "waiting": message.get("waiting"),
        "reason": message.get("reason"),
        "carrier's word": message.get("carrier_code"),
        "segments": message.get("segments"),
        "retryable": "yes" if message.get("retryable") else None,
        "a second copy": "may be out" if message.get("duplicate_risk") else None,
    }
    lines += [f"  {name:<15}{value}" for name, value in shown.items() if value not in (None, "")]
    return lines


def _timeline(steps: list[Json], total: int) -> list[str]:
    if not steps:
        return []
    first = _moment(steps[0]["at"])
    lines = ["", "  what happened, seconds after the first step:"]
    for step in steps:
        details = [str(step["step"]).replace("_", " ")]
        if step["step"] == "attempt" and step.get("attempt"):
            details[0] += f" {step['attempt']}"
        if step.get("segment") is not None:
            of_all = f" of {total}" if total > 1 else ""
            details.append(f"segment {step['segment'] + 1}{of_all}")
        for name, word in (("channel", "on"), ("carrier_id", "carrier's id"), ("code", "code")):
            if step.get(name) not in (None, ""):
                details.append(f"{word} {step[name]}")
        if step.get("detail"):
            details = [str(step["detail"])]
            if step["step"] == "webhook" and step.get("ms") is not None:
                details.append(str(step["code"]))  # the words do not say how the request ended
        if step.get("ms") is not None:
            details.append(f"took {step['ms']:g} ms")
        lines.append(f"  {_moment(step['at']) - first:>10.3f}  {', '.join(details)}")
    return lines


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
