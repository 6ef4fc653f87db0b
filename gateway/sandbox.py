"""`smsgw up --sandbox`: five simulated carriers, a webhook sink, a tenant and its key.

What they are and what leads to them stands in `gateway/sandbox_config.py`.

    data_dir/sandbox.yaml   what was applied first, through the same door as any configuration
    data_dir/sandbox.json   addresses and keys for scripts and tests (0600)
    data_dir/sandbox/       secrets and the ports chosen the first time
    data_dir/carriers/      what each simulated carrier got

The carriers and the sink are real processes on real sockets; one is a vendor over HTTP, which is
told where to call us in a file of its own. Everything is made once and found
again, so a second start has the same keys and ports. It applies only what the store lacks and the
port of a carrier that had to move: what an operator applied since is never taken back.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from adapters.http.callbacks import CALLBACKS
from gateway import apply
from gateway.children import Child
from gateway.client import command_line
from gateway.document import ObjectKey
from gateway.plan import Applied
from gateway.sandbox_config import (
    ACCESS_NUMBER,
    CARRIERS,
    ROUTES,
    Ports,
    configuration,
    sink_url,
    what_is_missing,
)
from gateway.settings import Settings, child_environment
from gateway.terminal import Terminal
from sms.errors import ConfigError
from store.durable import write_once
from store.embedded import make_private
from store.objects import StoredObject

FIRST_CONTROL_PORT = 2785
SINK_PORT = 9900
SINK_CONTROL_PORT = 9901
PORT_WAIT_S = 2.0  # the last run's carriers may still be on their way out
START_WAIT_S = 10.0
EXAMPLE = {"to": "+8613900139000", "text": "您的验证码是 482915，5 分钟内有效。", "class": "otp"}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _choose(wanted: int, taken: Container[int], others: Container[int], wait_s: float) -> int:
    """`wanted` when it is (or soon gets) free, else the next free one at a distance of 100.

    One that is `taken` is never chosen, one of the `others` only when it is the wanted one.
    """
    end = time.monotonic() + wait_s
    while wanted not in taken and not _is_free(wanted) and time.monotonic() < end:
        time.sleep(0.02)
    for port in range(wanted, 65_000, 100):
        if port not in taken and (port == wanted or port not in others) and _is_free(port):
            return port
    raise ConfigError(f"no free port above {wanted} for the sandbox")


def choose_ports(path: Path, reserved: set[int]) -> Ports:
    """The ports of the last run where they are free, near the defaults otherwise; kept."""
    wanted = [carrier.port for carrier in CARRIERS]
    wanted += [FIRST_CONTROL_PORT + i for i in range(len(CARRIERS))]
    wanted += [SINK_PORT, SINK_CONTROL_PORT]
    wait_s = 0.0
    with contextlib.suppress(OSError, ValueError):
        kept = [int(port) for port in json.loads(path.read_text("utf-8"))]
        if len(kept) == len(wanted):
            wanted, wait_s = kept, PORT_WAIT_S
    taken = set(reserved)
    chosen: list[int] = []
    for port in wanted:
        chosen.append(_choose(port, taken, wanted, wait_s))
        taken.add(chosen[-1])
        if chosen[-1] != port:
            wait_s = 0.0  # somebody else's: waiting for the others would not help either
    path.write_text(json.dumps(chosen), "utf-8")
    count = len(CARRIERS)
    return Ports(tuple(chosen[:count]), tuple(chosen[count : 2 * count]), chosen[-2], chosen[-1])


def _keep_secret(path: Path, text: str) -> str:
    """The secret in that file, written there (0600) when it is missing."""
    with contextlib.suppress(FileExistsError):
        write_once(path, f"{text}\n".encode())
    return path.read_text("utf-8").strip()


def _write_private(path: Path, text: str) -> None:
    """Replace a file as a whole; 0600 from its first byte."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def prepare(
    settings: Settings, terminal: Terminal, stack: contextlib.ExitStack, smg_port: int | None
) -> tuple[Settings, list[Child]]:
    """Start carriers and sink and apply the configuration; the gateway's worker comes after.

    `smg_port`: where the simulated SMG finds us on 127.0.0.1; None on a node without sessions.
    Returns settings that allow webhooks to the sink, and the children to watch over. Raises
    ConfigError when a child does not come up or the configuration is refused.
    """
    private = make_private(settings.data_dir / "sandbox")
    make_private(settings.carriers_dir)
    ports = choose_ports(private / "ports.json", {settings.port, settings.admin_port})
    _keep_secret(private / "carrier.pw", secrets.token_hex(4))  # SMPP 3.4: at most 8 characters
    _keep_secret(private / "callback.secret", secrets.token_hex(16))
    webhook_key = base64.b64encode(secrets.token_bytes(32)).decode()
    _keep_secret(private / "webhook.secret", f"whsec_{webhook_key}")
    terminal.step("starting five simulated carriers and a webhook sink …")
    children = _children(settings, ports, private, smg_port)
    for child in children:
        child.start(time.monotonic())
        stack.callback(child.end, 2.0)
    _wait_listening(children, (*ports.carrier, ports.sink))
    allowed = (*settings.webhook_allow, f"http://127.0.0.1:{ports.sink}")
    own = [settings.port, settings.admin_port, *ports.carrier, *ports.control]
    own += [port for port in (settings.smg_port, smg_port) if port is not None]
    settings = settings.model_copy(
        update={
            "webhook_allow": tuple(dict.fromkeys(allowed)),
            "sandbox_ports": tuple(own),
        }
    )
    file = settings.data_dir / "sandbox.yaml"
    _write_private(file, configuration(ports))
    _tell_vendors(settings, private, _apply_missing(settings, ports, private))
    _write_private(settings.sandbox_file, json.dumps(_description(settings, ports), indent=2))
    return settings, children


def _apply_missing(
    settings: Settings, ports: Ports, private: Path
) -> Mapping[ObjectKey, StoredObject]:
    """Apply what the store lacks of the sandbox; what it holds then."""
    password = (private / "carrier.pw").read_text("utf-8").strip()
    has_keys = all((private / name).exists() for name in ("api.key", "admin.key"))
    known = apply.current(settings)
    text = what_is_missing(ports, known, password, has_keys=has_keys)
    if not text:
        return known
    result = apply.apply_text(settings, text, settings.data_dir)
    if not isinstance(result, Applied):
        words = "; ".join(f"{found.pointer} {found.detail}" for found in result)
        raise ConfigError(f"the sandbox's configuration was refused: {words}")
    return apply.current(settings)


def _children(settings: Settings, ports: Ports, private: Path, smg_port: int | None) -> list[Child]:
    env = child_environment(settings)
    children = []
    for carrier, port, control in zip(CARRIERS, ports.carrier, ports.control, strict=True):
        name = carrier.name
        args = ["--name", name, "--protocol", carrier.protocol]
        args += ["--port", str(port), "--control-port", str(control)]
        args += ["--record", str(settings.carriers_dir / f"{name}.jsonl")]
        args += ["--system-id", carrier.login, "--password-file", str(private / "carrier.pw")]
        if carrier.is_vendor():
            args += ["--callback-file", str(_callback_file(private, carrier.name))]
        if carrier.protocol == "sgip" and smg_port is not None:
            args += ["--call-back", f"127.0.0.1:{smg_port}"]
        children.append(_child(name, "loadtest.carrier", args, env, settings))
    args = ["--port", str(ports.sink), "--control-port", str(ports.sink_control)]
    args += ["--secret-file", str(private / "webhook.secret")]
    args += ["--record", str(settings.carriers_dir / "sink.jsonl")]
    children.append(_child("sink", "loadtest.sink", args, env, settings))
    return children


def _callback_file(private: Path, name: str) -> Path:
    """What a vendor's console would hold: the URL of our callbacks, with the channel's secret."""
    return private / f"{name}.callback"


def _tell_vendors(
    settings: Settings, private: Path, known: Mapping[ObjectKey, StoredObject]
) -> None:
    """Write where each vendor is to bring receipts and texts; it looks there at every push."""
    scheme = "https" if settings.tls_cert_file else "http"
    secret = (private / "callback.secret").read_text("utf-8").strip()
    for carrier in CARRIERS:
        channel = known.get(("channel", carrier.name))
        if carrier.is_vendor() and channel is not None:
            url = f"{scheme}://127.0.0.1:{settings.port}{CALLBACKS}/{channel.public_id}/{{kind}}"
            _write_private(_callback_file(private, carrier.name), f"{url}?secret={secret}\n")


def _child(
    name: str, module: str, args: list[str], env: dict[str, str], settings: Settings
) -> Child:
    command = [sys.executable, "-P", "-m", module, *args]
    log = settings.log_dir / f"{name}.log"
    longest_wait_s = settings.reliability.restart_max_s
    return Child(
        name, command, env, log, death_signal=signal.SIGTERM, longest_wait_s=longest_wait_s
    )


def _wait_listening(children: list[Child], ports: tuple[int, ...]) -> None:
    end = time.monotonic() + START_WAIT_S
    waiting = list(ports)
    while waiting:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", waiting[0])) == 0:
                waiting.pop(0)
                continue
        ended = [child for child in children if child.pid is None]
        if ended or time.monotonic() > end:
            child = ended[0] if ended else children[0]
            words = " / ".join(child.last_words()[-3:]) or "it left no word"
            raise ConfigError(f"{child.name} does not start: {words} (log in {child.log})")
        time.sleep(0.02)


def _description(settings: Settings, ports: Ports) -> dict[str, object]:
    """What sandbox.json holds (API section 6), and the sink."""
    scheme = "https" if settings.tls_cert_file else "http"
    private = settings.data_dir / "sandbox"
    host = "127.0.0.1"
    return {
        "url": f"{scheme}://{host}:{settings.port}",
        "admin_url": f"{'https' if settings.admin_tls else 'http'}://{host}:{settings.admin_port}",
        "api_key": (private / "api.key").read_text("utf-8").strip(),
        "admin_key": (private / "admin.key").read_text("utf-8").strip(),
        "carriers": [
            {
                "name": carrier.name,
                "protocol": carrier.protocol,
                "port": port,
                "control_url": f"http://{host}:{control}",
            }
            for carrier, port, control in zip(CARRIERS, ports.carrier, ports.control, strict=True)
        ],
        "sink": {
            "url": sink_url(ports),
            "control_url": f"http://{host}:{ports.sink_control}",
        },
    }


def _channels(told: Mapping[str, Any]) -> str:
    """A line per channel: protocol, whose numbers it is the primary of, who stands behind it."""
    width = max(len(carrier.protocol) for carrier in CARRIERS)
    behind = {names[0]: names[1:] for names in ROUTES.values()}
    lines = []
    for carrier, shown in zip(CARRIERS, told["carriers"], strict=True):
        named = f"{carrier.name:<10} {shown['protocol']:<{width}}"
        if carrier.name in behind:
            numbers = f"{carrier.network} ({carrier.example})"
            lines.append(f"{named} {numbers}, backups {', '.join(behind[carrier.name])}")
        else:
            lines.append(f"{named} the third backup of them all, over HTTP")
    return "\n         ".join(lines)


def _reply(told: Mapping[str, Any]) -> str:
    """A curl line that makes a phone send a text through the first carrier."""
    text = {"from": EXAMPLE["to"], "to": ACCESS_NUMBER, "text": "TD"}
    url = told["carriers"][0]["control_url"]
    return f"curl -sS {url}/inbound -d '{json.dumps(text, ensure_ascii=False)}'"


def _switch_off(told: Mapping[str, Any]) -> str:
    """A curl line that takes the first carrier's link away."""
    url = told["carriers"][0]["control_url"]
    return f"""curl -sS {url}/behaviour -d '{{"link": "down"}}'"""


def greet(settings: Settings, terminal: Terminal, url: str) -> None:
    """Say how to send: key, a curl line to copy, how to look at the message."""
    told = json.loads(settings.sandbox_file.read_text("utf-8"))
    insecure = " -k" if url.startswith("https") else ""
    body = json.dumps(EXAMPLE, ensure_ascii=False)
    curl = (
        f"curl -sS{insecure} {url}/v1/messages -H 'Authorization: Bearer {told['api_key']}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    command = command_line(settings)
    terminal.say(
        f"key      {told['api_key']}\n"
        f"channels {_channels(told)}\n"
        f"         each a simulated carrier: what it got stands in carriers/\n"
        f"webhooks go to the sandbox's own sink, {told['sink']['url']}, allowed for that reason\n\n"
        f"Send a text:\n  {curl}\n\n"
        f"See what became of it (id from the answer):\n  {command} status ID --timeline\n\n"
        f"Take its carrier away, send again, see the backup:\n  {_switch_off(told)}\n\n"
        f"Answer it from a phone, here with an opt-out:\n  {_reply(told)}\n",
        "sandbox",
        url=url,
        api_key=told["api_key"],
        curl=curl,
        sandbox_file=str(settings.sandbox_file),
    )
