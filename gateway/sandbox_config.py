"""What the sandbox is made of: its carriers, and the configuration that leads to them.

    network          primary     backups, in order
    China Mobile     mobile-a    unicom-a   telecom-a  vendor-a      and whoever has no other route
    China Unicom     unicom-a    mobile-a   telecom-a  vendor-a
    China Telecom    telecom-a   mobile-a   unicom-a   vendor-a
    China Broadnet   global-a    mobile-a   unicom-a   vendor-a
    unknown, abroad  global-a    mobile-a   unicom-a   vendor-a      abroad: global-a and vendor-a

Four of them are carriers on wires; the third backup of all is a vendor over HTTP (Infobip).

Text only; `gateway/sandbox.py` starts the processes and applies it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.http.vendors import VENDORS
from gateway.document import ObjectKey
from store.objects import StoredObject

LIMIT: Final = 1_000_000
LOGIN_FILE: Final = "sandbox/carrier.pw"
CALLBACK_FILE: Final = "sandbox/callback.secret"
ACCESS_NUMBER: Final = "10690001"  # what phones see and answer to


@dataclass(frozen=True, slots=True)
class Carrier:
    """One simulated carrier and the channel to it."""

    name: str
    protocol: str
    port: int  # the standard's, taken when it is free
    login: str
    secret: str  # the channel's field that holds the password
    settings: str  # lines of the channel that are the protocol's own, with the login
    network: str  # whose numbers it is the primary of, as the greeting says it; "" = nobody's
    example: str  # one of them
    sessions: int = 2
    window: int = 512  # a vendor's: requests under way, each with a connection

    def is_vendor(self) -> bool:
        """Whether it speaks HTTP and calls us back."""
        return self.protocol in VENDORS

    def address(self, port: int) -> Mapping[str, Any]:
        """The settings of its channel that say where it is."""
        if self.is_vendor():
            return {"url": f"http://127.0.0.1:{port}"}
        return {"host": "127.0.0.1", "port": port}


# The records of the carriers name numbers as the API does, with their 86.
CARRIERS: Final = (
    Carrier(
        "mobile-a",
        "cmpp3",
        7890,
        "900001",
        "shared_secret",
        f"""\
    source_addr: "900001"
    number_format: e164
    sender: "{ACCESS_NUMBER}"
    countries: [86]
""",
        "China Mobile",
        "+86139…",
    ),
    Carrier(
        "unicom-a",
        "sgip",
        8801,
        "unicom",
        "password",
        f"""\
    login_name: unicom
    node_id: 3010012345
    corp_id: "12345"
    smg_allow: [127.0.0.1]
    sender: "{ACCESS_NUMBER}"
    countries: [86]
""",
        "China Unicom",
        "+86186…",
    ),
    Carrier(
        "telecom-a",
        "smgp",
        8890,
        "telecom",
        "shared_secret",
        f"""\
    client_id: telecom
    number_format: e164
    sender: "{ACCESS_NUMBER}"
    countries: [86]
""",
        "China Telecom",
        "+86189…",
    ),
    Carrier(
        "vendor-a",
        "infobip",
        8090,
        "vendor",
        "api_key",
        f"""\
    callback_secret_file: {CALLBACK_FILE}
    sender: "{ACCESS_NUMBER}"
""",
        "",
        "",
        sessions=1,
        window=128,
    ),
    Carrier(
        "global-a",
        "smpp",
        2775,
        "global",
        "password",
        """\
    system_id: global
    bind: trx
""",
        "China Broadnet, abroad",
        "+86192…, +1…",
    ),
)
# What stands for all takes China Mobile's numbers too: a route of your own for all then does.
ROUTES: Final[Mapping[str, Sequence[str]]] = {
    "*": ("mobile-a", "unicom-a", "telecom-a", "vendor-a"),
    "CU": ("unicom-a", "mobile-a", "telecom-a", "vendor-a"),
    "CT": ("telecom-a", "mobile-a", "unicom-a", "vendor-a"),
    "CB": ("global-a", "mobile-a", "unicom-a", "vendor-a"),
    "other": ("global-a", "mobile-a", "unicom-a", "vendor-a"),  # abroad: the first and the last
}
# The sandbox of versions before had four of SMPP; their route for all leads nowhere now.
_CHANNELS_BEFORE: Final = ["carrier-a", "carrier-b", "carrier-c", "carrier-d"]

_HEAD = """\
# Made by `smsgw up --sandbox`, which applied it at its first start. Later starts apply nothing of
# it but what is missing and a changed port; this file is written anew each time, so put your own
# configuration into another one.
"""
_TENANT = """\
tenants:
  - name: sandbox
    signatures: [沙箱]
    countries: [86, 1]
    limits: {{segments_per_second: {limit}, burst_segments: {limit}}}
    # Tests and benches send to numbers that follow one another: to the guard against pumping that
    # looks like an attack. The caps of each single number hold here too.
    otp_caps: {{prefix_burst: 0}}
    api_keys: [{{name: sandbox, scopes: [send, read], secret_file: sandbox/api.key}}]
admin_keys: [{{name: sandbox-admin, secret_file: sandbox/admin.key}}]
"""
_ROUTE = """\
  - {{tenant: "*", class: "*", carrier: "{carrier}", channels: [{names}]}}
"""
_ENDPOINT = """\
webhook_endpoints:
  - {{tenant: sandbox, url: "{sink}", batch: true, secret_file: sandbox/webhook.secret,
     events: ["message.*", "inbound.received", "recipient.opted_out"]}}
"""
_CHANNEL = """\
  - name: {name}
    protocol: {protocol}
{address}{settings}    {secret}_file: {login_file}
    sessions: {sessions}
    window: {window}
    segments_per_second: {limit}
    classes: [otp, transactional, marketing]
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of the sandbox on 127.0.0.1, the carriers' in the order of `CARRIERS`."""

    carrier: tuple[int, ...]
    control: tuple[int, ...]
    sink: int
    sink_control: int

    def all(self) -> tuple[int, ...]:
        """Every one of them."""
        return (*self.carrier, *self.control, self.sink, self.sink_control)


def sink_url(ports: Ports) -> str:
    """Where the sandbox's webhooks go."""
    return f"http://127.0.0.1:{ports.sink}/hooks"


def configuration(ports: Ports) -> str:
    """The sandbox's YAML: a primary for each network with backups, one webhook endpoint."""
    channels = [_channel(carrier, port) for carrier, port in _with_ports(ports)]
    routes = [_route(carrier) for carrier in ROUTES]
    return "".join(
        [_HEAD, _tenant(), "channels:\n", *channels, "routes:\n", *routes, _endpoint(ports)]
    )


def what_is_missing(
    ports: Ports, known: Mapping[ObjectKey, StoredObject], password: str, *, has_keys: bool
) -> str:
    """The YAML of what the store lacks, and of carriers whose port or password is another now.

    Empty when nothing has to be applied. A carrier that moved keeps what an operator gave it.
    """
    parts = []
    if not has_keys or ("tenant", "sandbox") not in known:
        parts.append(_tenant())
    channels = [
        text
        for carrier, port in _with_ports(ports)
        if (text := _missing_channel(carrier, port, known, password))
    ]
    if channels:
        parts += ["channels:\n", *channels]
    routes = [_route(carrier) for carrier in ROUTES if _lacks_route(carrier, known)]
    if routes:
        parts += ["routes:\n", *routes]
    if ("webhook_endpoint", f"sandbox {sink_url(ports)}") not in known:
        parts.append(_endpoint(ports))
    return "".join(parts)


def _with_ports(ports: Ports) -> Sequence[tuple[Carrier, int]]:
    return list(zip(CARRIERS, ports.carrier, strict=True))


def _tenant() -> str:
    return _TENANT.format(limit=LIMIT)


def _route(carrier: str) -> str:
    return _ROUTE.format(carrier=carrier, names=", ".join(ROUTES[carrier]))


def _endpoint(ports: Ports) -> str:
    return _ENDPOINT.format(sink=sink_url(ports))


def _channel(carrier: Carrier, port: int) -> str:
    return _CHANNEL.format(
        name=carrier.name,
        protocol=carrier.protocol,
        address="".join(f"    {name}: {value}\n" for name, value in carrier.address(port).items()),
        settings=carrier.settings,
        secret=carrier.secret,
        login_file=LOGIN_FILE,
        sessions=carrier.sessions,
        window=carrier.window,
        limit=LIMIT,
    )


def _missing_channel(
    carrier: Carrier, port: int, known: Mapping[ObjectKey, StoredObject], password: str
) -> str:
    """The channel's entry when it is missing or led elsewhere, else ""."""
    standing = known.get(("channel", carrier.name))
    if standing is None or standing.spec["protocol"] != carrier.protocol:
        return _channel(carrier, port)
    leads_here = carrier.address(port).items() <= standing.spec["settings"].items()
    if leads_here and standing.secrets.get(carrier.secret) == password:
        return ""
    return _moved(carrier, standing.spec, port)


def _moved(carrier: Carrier, spec: Mapping[str, Any], port: int) -> str:
    """A stored channel as an entry of a file, with another port. JSON is YAML too."""
    own = {key: value for key, value in spec.items() if key != "settings" and value is not None}
    settings = {**spec["settings"], **carrier.address(port), f"{carrier.secret}_file": LOGIN_FILE}
    if carrier.is_vendor():
        settings["callback_secret_file"] = CALLBACK_FILE
    entry = {"name": carrier.name, **own, **settings}
    return f"  - {json.dumps(entry, ensure_ascii=False)}\n"


def _lacks_route(carrier: str, known: Mapping[ObjectKey, StoredObject]) -> bool:
    standing = known.get(("route", f"*/*/{carrier}/*"))
    return standing is None or standing.spec["channels"] == _CHANNELS_BEFORE
