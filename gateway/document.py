"""A configuration file, checked as a whole: every complaint at once, or the objects it wants.

Nothing is written here, neither to the store nor to a file: what has to be made (keys, webhook
secrets) is only noted, and `gateway/plan.py` makes it once the whole file is good.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from adapters.base import CLOSE_SPELLING, NOT_A_SETTING
from adapters.http.settings import SECRETS as HTTP_SECRETS
from adapters.http.vendor import Traits
from gateway import configfields as fields
from gateway.api.auth import ParsedKey, parse_key
from gateway.api.signing import is_signing_secret
from gateway.canaryfit import LIVE_REMEDY, canary_lacks, canary_misfits, lack_detail, live_ones
from gateway.configfields import LATER, Field
from gateway.owners import taken_detail, taken_numbers
from gateway.protocols import CarrierProtocol
from gateway.routefit import clashes, misfits
from gateway.secretfiles import SecretFiles
from gateway.specs import (
    endpoint_name,
    endpoint_spec,
    in_state,
    suspended,
    template_spec,
    tenant_spec,
)
from gateway.templatefit import crowded, lacks
from gateway.weburl import url_refusal
from gateway.yamlfile import Complaint, member, read_yaml
from sms.config import AdminState, Channel, encodings_of
from sms.ids import to_text
from sms.model import Encoding
from sms.templates import MAX_TEMPLATES
from webhooks.address import AllowList
from webhooks.sign import parse_secret

ObjectKey = tuple[str, str]  # kind, name

NO_CLIENT_CA = (
    "cannot be met by anybody: set SMSGW_TLS_CLIENT_CA_FILE on every node first, so that clients"
    " are asked for a certificate"
)
CHANNEL_SECRETS = frozenset(
    {
        *("password", "smg_password", "secret", "shared_secret"),
        *HTTP_SECRETS,
        *("tls_ca", "tls_cert", "tls_key"),  # kept with the channel: every node has them
    }
)
_PEM_REMEDIES = dict.fromkeys(
    ("tls_ca", "tls_cert", "ca"), "put the certificate there as PEM, or correct the path"
) | {"tls_key": "put the key there as PEM, or correct the path"}
# Fields of a channel that say nothing when they are left out.
_IF_GIVEN = (
    *("price_per_segment", "opt_out_line", "encodings", "signature_by"),
    *("carriers", "countries", "report_classes", "reference_bits"),
    "demands_template",  # by the vendor's nature: _settle_traits
)


@dataclass(slots=True)
class Wanted:
    """One object as the file wants it. Of a key or a webhook secret one of three is known."""

    kind: str
    name: str
    spec: dict[str, Any]
    secrets: dict[str, Any] = field(default_factory=dict, repr=False)
    key: ParsedKey | None = field(default=None, repr=False)  # an API key given
    make_in: Path | None = None  # its file does not exist yet: make it there
    is_secret_open: bool = False  # neither given nor to be filed: keep the old one, or print one
    signing: bool | None = None  # whether the key signs; None = the file does not say
    signing_secret: str | Path | None = field(default=None, repr=False)  # given, or to be filed
    is_revoked: bool = False  # the key shall be out of force


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the file stands in: files beside it, objects in force, protocols, URL exceptions."""

    base_dir: Path
    known: Mapping[ObjectKey, Mapping[str, Any]]  # spec of every object in force
    protocols: Mapping[str, CarrierProtocol]
    allow: AllowList
    revoked: frozenset[int] = frozenset()  # ids of keys that may not come back
    has_client_ca: bool = True  # our port asks clients for certificates


def check_document(text: str, around: Surroundings) -> tuple[list[Wanted], list[Complaint]]:
    """All objects the file wants, in an order that names nothing before it stands; or complaints.

    The objects are only to be used when there is no complaint.
    """
    value, lines, complaints = read_yaml(text)
    reader = _Document(around, lines.find, list(complaints))
    if value is None and not complaints:
        reader.complain("", "is empty; it needs tenants, channels, routes …")
    elif not complaints:
        reader.read(value)
    return reader.wanted, sorted(set(reader.complaints))


def check_value(
    value: Mapping[str, Any], around: Surroundings
) -> tuple[list[Wanted], list[Complaint]]:
    """The same for a document that was never a file: the admin API's, with one object."""
    reader = _Document(around, lambda _: 1, [])
    reader.read(value)
    return reader.wanted, sorted(set(reader.complaints))


class _Document:
    def __init__(
        self,
        around: Surroundings,
        line_of: Callable[[str], int],
        complaints: list[Complaint],
    ) -> None:
        self.wanted: list[Wanted] = []
        self.complaints = complaints
        self._around = around
        self._line_of = line_of
        self._names: set[ObjectKey] = set()
        self._secrets = SecretFiles(around.base_dir, self.complain)
        self._channel_pointers: dict[str, str] = {}
        self._route_pointers: dict[str, str] = {}
        self._tenant_pointers: dict[str, str] = {}
        self._template_pointers: dict[str, str] = {}
        self._key_ids: dict[int, str] = {
            spec["key_id"]: name
            for (kind, name), spec in around.known.items()
            if kind == "api_key" and "key_id" in spec
        }

    def complain(self, pointer: str, detail: str, code: str = "field.value") -> None:
        """Add a complaint."""
        self.complaints.append(Complaint(self._line_of(pointer), pointer, detail, code))

    def read(self, value: object) -> None:
        """Check the whole document."""
        top = self._fields(value, "", fields.TOP)
        for read, section in (
            (self._tenant, "tenants"),
            (self._admin_key, "admin_keys"),
            (self._channel, "channels"),
            (self._route, "routes"),
            (self._endpoint, "webhook_endpoints"),
            (self._template, "templates"),
        ):
            for pointer, entry in self._entries(top.get(section), f"/{section}"):
                read(entry, pointer)
        self._check_accounts()
        if not self.complaints:  # what is compared must be well formed
            self._check_guests()
        self._check_routes()
        self._check_templates()
        self._check_canaries()
        self._check_inbound_numbers()

    # -- forms ---------------------------------------------------------------------------------

    def _entries(self, value: object, pointer: str) -> Iterator[tuple[str, object]]:
        if value is None:
            return
        if not isinstance(value, list):
            self.complain(pointer, "must be a list; begin each entry with -")
            return
        for index, entry in enumerate(value):
            yield member(pointer, index), entry

    def _fields(
        self,
        value: object,
        pointer: str,
        table: Mapping[str, Field],
        *,
        is_open: bool = False,
    ) -> dict[str, Any]:
        """The fields that are right; names outside the table only when `is_open`."""
        if not isinstance(value, dict):
            self.complain(pointer, "must be an object of named fields")
            return {}
        good: dict[str, Any] = {}
        for name, inner in value.items():
            at = member(pointer, name)
            known = table.get(name)
            if known is None and is_open:
                good[name] = inner
                continue
            wrong = self._wrong(name, inner, known, table)
            if wrong is None:
                good[name] = inner
            else:
                self.complain(at, wrong)
        for name, known in table.items():
            if known.is_required and name not in value:
                self.complain(pointer, f"has no `{name}`; add it")
        return good

    @staticmethod
    def _wrong(
        name: str, value: object, known: Field | None, table: Mapping[str, Field]
    ) -> str | None:
        if known is None:
            near = difflib.get_close_matches(name, table, n=1, cutoff=CLOSE_SPELLING)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(table)}"
            return f"is not a field here; {hint}"
        if known.is_later:
            return LATER
        if value is None:
            return "has no value; give one, or remove it"
        return known.check(value)

    def _take(self, wanted: Wanted, pointer: str) -> None:
        key = (wanted.kind, wanted.name)
        if key in self._names:
            self.complain(pointer, f"another {wanted.kind} of this file is the same; remove one")
        self._names.add(key)
        self.wanted.append(wanted)

    def _exists(self, kind: str, name: object) -> bool:
        return (kind, name) in self._names or (kind, name) in self._around.known

    # -- keys ----------------------------------------------------------------------------------

    def _key(self, good: dict[str, Any], pointer: str, wanted: Wanted) -> None:
        wanted.is_revoked = good.get("revoked", False)
        if wanted.is_revoked:  # its files stay unread: who revokes a key need not have it
            self._take(wanted, pointer)
            return
        secret = self._secrets.read(good, pointer, "secret")
        wanted.is_secret_open = "secret" not in good and "secret_file" not in good
        if isinstance(secret, Path):
            wanted.make_in = secret
        elif secret is not None:
            at = f"{pointer}/{'secret' if 'secret' in good else 'secret_file'}"
            wanted.key = parse_key(secret.strip().encode())
            wrong = self._key_refusal(wanted)
            if wrong is not None:
                self.complain(at, wrong)
        self._signing(good, pointer, wanted)
        self._take(wanted, pointer)

    def _key_refusal(self, wanted: Wanted) -> str | None:
        """What is wrong with a key that was given, and what to do."""
        key = wanted.key
        if key is None or key.id >= 1 << 63:
            return "is not an API key (smsgw_…); give a whole key, or remove the file to get one"
        if key.id in self._around.revoked:
            return "is a key that was revoked, and none comes back; remove the file to get another"
        owner = self._key_ids.setdefault(key.id, wanted.name)
        if owner == f"{wanted.name}/{to_text('key', key.id)}":
            return "is a key that was rotated out; put its successor there"
        if owner != wanted.name:
            return "is the key of another entry; every entry needs its own"
        return None

    def _signing(self, good: dict[str, Any], pointer: str, wanted: Wanted) -> None:
        wanted.signing = good.get("signing")
        secret = self._secrets.read(good, pointer, "signing_secret")
        if secret is None:
            return
        at = f"{pointer}/{'signing_secret' if 'signing_secret' in good else 'signing_secret_file'}"
        if wanted.signing is False:
            self.complain(at, "belongs to a key that does not sign; remove it, or `signing: false`")
        elif isinstance(secret, str) and not is_signing_secret(secret.strip()):
            self.complain(at, "is not a signing secret (smsgw_signing_…); remove it to get one")
        wanted.signing = True
        wanted.signing_secret = secret.strip() if isinstance(secret, str) else secret

    # -- sections ------------------------------------------------------------------------------

    def _tenant(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.TENANT)
        limits = self._limits(good.get("limits", {}), f"{pointer}/limits")
        if "otp_caps" in good:
            at = f"{pointer}/otp_caps"
            good["otp_caps"] = self._fields(good["otp_caps"], at, fields.OTP_CAPS)
        if "name" not in good:
            return
        name = good["name"]
        standing = self._around.known.get(("tenant", name), {})
        # What protects a tenant no file undoes by silence: an operator suspended it, or said
        # where its keys may be used from, or which numbers' replies are its own.
        if good.get("client_certificates") and not self._around.has_client_ca:
            self.complain(f"{pointer}/client_certificates", NO_CLIENT_CA)
        for word in ("allowed_ips", "client_certificates", "inbound_numbers"):
            if word not in good:
                good[word] = standing.get(word, [])
        is_suspended = good.get("suspended", bool(standing.get("is_suspended")))
        spec = suspended(tenant_spec(good, limits), is_suspended=is_suspended)
        self._take(Wanted("tenant", name, spec), pointer)
        self._tenant_pointers[name] = pointer
        for at, entry in self._entries(good.get("api_keys"), f"{pointer}/api_keys"):
            self._api_key(entry, at, name)

    def _limits(self, value: object, pointer: str) -> dict[str, Any]:
        """The limits of a tenant; none when something is wrong with one."""
        complaints = len(self.complaints)
        limits = self._fields(value, pointer, fields.LIMITS)
        if "classes" in limits:
            at = f"{pointer}/classes"
            limits["classes"] = {
                word: self._fields(inner, member(at, word), fields.BUCKET)
                for word, inner in self._fields(limits["classes"], at, fields.CLASSES).items()
            }
        if "bursts" in limits:
            limits["bursts"] = [
                self._burst(entry, at)
                for at, entry in self._entries(limits["bursts"], f"{pointer}/bursts")
            ]
        return limits if len(self.complaints) == complaints else {}

    def _burst(self, value: object, pointer: str) -> dict[str, Any]:
        good = self._fields(value, pointer, fields.BURST)
        wrong = fields.burst_refusal(good)
        if wrong is not None:
            self.complain(f"{pointer}/until", wrong)
        return good

    def _api_key(self, value: object, pointer: str, tenant: str) -> None:
        good = self._fields(value, pointer, fields.API_KEY)
        if "name" in good:
            scopes = sorted(good.get("scopes", ["send", "read"]))
            spec = {"tenant": tenant, "name": good["name"], "scopes": scopes}
            self._key(good, pointer, Wanted("api_key", f"{tenant}/{good['name']}", spec))

    def _admin_key(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.ADMIN_KEY)
        if "name" in good:
            spec = {"tenant": None, "name": good["name"], "scopes": ["admin"]}
            self._key(good, pointer, Wanted("api_key", f"/{good['name']}", spec))

    def _channel(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.CHANNEL, is_open=True)
        own = {name: good[name] for name in good if name not in fields.CHANNEL}
        secrets = self._channel_secrets(own, pointer)
        settings = {
            name: inner for name, inner in own.items() if name.removesuffix("_file") not in secrets
        }
        protocol = self._protocol(good, pointer)
        if protocol is not None:
            wrong = protocol.validate({**settings, **secrets})
            for inner, detail in wrong:
                name = inner.removeprefix("/")
                if secrets.get(name) or f"{name}_file" not in own:  # else its file was named
                    told = _setting_detail(inner, detail)
                    self.complain(pointer + inner, told, _setting_code(detail))
            if not wrong and protocol.traits is not None:
                self._settle_traits(protocol.traits({**settings, **secrets}), good, pointer)
            if "gsm7" in good.get("encodings", ()) and Encoding.GSM7 not in encodings_of(
                str(good["protocol"])
            ):
                self.complain(
                    f"{pointer}/encodings",
                    f"gsm7 does not fit {good['protocol']}, which counts every text as UCS-2; "
                    "remove `encodings`, and every text goes as UCS-2",
                )
        if "name" not in good:
            return
        self._channel_pointers.setdefault(good["name"], pointer)
        default = Channel(0, "", "", {})
        spec: dict[str, Any] = {
            "protocol": good.get("protocol"),
            "settings": settings,
            "sessions": good.get("sessions", default.sessions),
            "window": good.get("window", default.window),
            "segments_per_second": good.get("segments_per_second", default.segments_per_second),
            "classes": sorted(good.get("classes", [str(word) for word in default.classes])),
            "sender": good.get("sender", default.sender),
            "submit_timeout_s": good.get("submit_timeout_s"),
        }
        spec |= {name: good[name] for name in _IF_GIVEN if name in good}
        # What an operator paused no file resumes by silence.
        standing = self._around.known.get(("channel", good["name"]), {})
        state = good.get("admin_state", standing.get("admin_state"))
        spec = in_state(spec, AdminState(state or AdminState.ACTIVE))
        self._take(Wanted("channel", good["name"], spec, secrets), pointer)

    def _settle_traits(self, traits: Traits, good: dict[str, Any], pointer: str) -> None:
        """What a vendor does by its nature a file need not say, and cannot deny."""
        if traits.demands_template:
            good["demands_template"] = True
        if not traits.inherent.get("adds_signature"):
            return
        if good.get("signature_by") == "gateway":
            self.complain(
                f"{pointer}/signature_by",
                f"{good['protocol']} puts the signature in front itself; remove this",
            )
        good["signature_by"] = "carrier"

    def _check_accounts(self) -> None:
        """Refuse two channels on one account: a receipt may come on either, and only the one
        that sent the text knows its id."""
        specs = {
            name: spec for (kind, name), spec in self._around.known.items() if kind == "channel"
        }
        specs |= {one.name: one.spec for one in self.wanted if one.kind == "channel"}
        first: dict[tuple[object, ...], str] = {}
        for name in sorted(specs, key=lambda name: name in self._channel_pointers):
            if self._is_wrong(name):
                continue
            spec = specs[name]
            settings = spec.get("settings", {})
            protocol = self._around.protocols.get(str(spec.get("protocol")))
            if protocol is None:
                continue
            account = protocol.account(str(spec["protocol"]), settings)
            if account is None:
                continue
            other = first.setdefault(account, name)
            if other != name and name in self._channel_pointers:
                is_here = other in self._channel_pointers
                remedy = "remove one of the two" if is_here else f"name this one {other}"
                same = "url" if protocol.traits else "host, port"
                self.complain(
                    f"{self._channel_pointers[name]}/{protocol.login}",
                    f"is the account of channel {other} too (same {same} and {protocol.login}); a "
                    f"channel is one account: {remedy}, and use `sessions: N` for more links",
                )

    def _is_wrong(self, channel: str) -> bool:
        """Whether this file's channel has complaints of its own: it can be compared with none."""
        pointer = self._channel_pointers.get(channel)
        return pointer is not None and any(
            one.pointer.startswith(f"{pointer}/") for one in self.complaints
        )

    def _check_guests(self) -> None:
        """Refuse two channels that a carrier's login at our port could be either's: what it brings
        would all be the first one's."""
        specs = self._all_specs("channel")
        guests = [
            (name, spec["protocol"], spec.get("settings", {}), ask)
            for name, spec in specs.items()
            if not self._is_wrong(name)
            and (protocol := self._around.protocols.get(str(spec.get("protocol"))))
            and (ask := protocol.is_same_guest)
        ]
        for one, other in combinations(guests, 2):
            here = [name for name, *_ in (one, other) if name in self._channel_pointers]
            if here and one[1] == other[1] and one[3](one[2], other[2]):
                name = here[-1]
                self.complain(
                    f"{self._channel_pointers[name]}/smg_login_name",
                    f"is the name of channel {one[0] if name == other[0] else other[0]} too, for "
                    "addresses that both `smg_allow`; let the carrier log in by another name",
                )

    def _check_routes(self) -> None:
        """Refuse a route, of the file or in force, whose channels cannot do what it asks of them,
        or differ in what they add to a text."""
        channels, routes = self._all_specs("channel"), self._all_specs("route")
        for wrong in chain(misfits(channels, routes), clashes(channels, routes)):
            changed = [one for one in wrong.channels if one in self._channel_pointers]
            if wrong.route in self._route_pointers:
                place = "/channels" if wrong.place is None else f"/channels/{wrong.place}"
                pointer = f"{self._route_pointers[wrong.route]}{place}"
            elif changed:
                pointer = f"{self._channel_pointers[changed[0]]}/{wrong.field}"
            else:
                continue  # neither is this file's
            self.complain(pointer, f"route {wrong.route}: {wrong.detail}", "route.misfit")

    def _check_templates(self) -> None:
        """Refuse a channel that sends templates only in a route of a template without a twin."""
        channels, routes = self._all_specs("channel"), self._all_specs("route")
        templates = self._all_specs("template")
        last = {templates[name]["tenant"]: at for name, at in self._template_pointers.items()}
        for tenant in crowded(templates):
            if tenant in last:
                self.complain(
                    f"{last[tenant]}/tenant",
                    f"would have more than {MAX_TEMPLATES} templates; delete what nobody sends "
                    "any more, or make one of several with a variable",
                )
        for lack in lacks(channels, routes, templates):
            if lack.template in self._template_pointers:
                pointer = f"{self._template_pointers[lack.template]}/twins"
            elif lack.route in self._route_pointers:
                pointer = f"{self._route_pointers[lack.route]}/channels"
            elif lack.channel in self._channel_pointers:
                pointer = f"{self._channel_pointers[lack.channel]}/protocol"
            else:
                continue  # nothing of it is this file's
            self.complain(pointer, lack.detail, "template.twin_missing")

    def _check_canaries(self) -> None:
        """Refuse a change of a route that a canary is live on, and of what belongs to the two."""
        canaries = live_ones(self._all_specs("canary"))
        channels, routes = self._all_specs("channel"), self._all_specs("route")
        for name, spec in canaries.items():
            route = spec["route"]
            pointer = self._route_pointers.get(route)
            if pointer is not None and routes[route] != self._around.known.get(("route", route)):
                detail = f"canary {name} is live on this route, which stays as it is: {LIVE_REMEDY}"
                self.complain(f"{pointer}/channels", detail, "canary.live")
        for wrong in canary_misfits(channels, routes, canaries):
            for channel in wrong.channels:
                if channel in self._channel_pointers:
                    pointer = f"{self._channel_pointers[channel]}/{wrong.field}"
                    self.complain(pointer, f"canary {wrong.route}: {wrong.detail}", "route.misfit")
                    break
        for lack in canary_lacks(channels, routes, canaries, self._all_specs("template")):
            if lack.template in self._template_pointers:
                pointer = f"{self._template_pointers[lack.template]}/twins"
            elif lack.channel in self._channel_pointers:
                pointer = f"{self._channel_pointers[lack.channel]}/protocol"
            else:
                continue  # nothing of it is this file's
            self.complain(pointer, lack_detail(lack), "template.twin_missing")

    def _check_inbound_numbers(self) -> None:
        """Refuse a number of this file that is another tenant's too."""
        specs = self._all_specs("tenant")
        for name, pointer in self._tenant_pointers.items():
            numbers = specs[name].get("inbound_numbers", [])
            for index, other in taken_numbers(numbers, name, specs).items():
                self.complain(f"{pointer}/inbound_numbers/{index}", taken_detail(other))

    def _all_specs(self, kind: str) -> dict[str, Mapping[str, Any]]:
        """Every object of a kind as it would stand: what is in force, under what the file says."""
        known = {name: spec for (of, name), spec in self._around.known.items() if of == kind}
        return known | {one.name: one.spec for one in self.wanted if one.kind == kind}

    def _channel_secrets(self, own: dict[str, Any], pointer: str) -> dict[str, Any]:
        secrets: dict[str, Any] = {}
        for name in CHANNEL_SECRETS:
            if name not in own and f"{name}_file" not in own:
                continue
            wrong = fields.text(4096)(own.get(f"{name}_file", "."))
            if wrong is not None:
                self.complain(f"{pointer}/{name}_file", wrong)
                secrets[name] = ""
                continue
            found = self._secrets.read(own, pointer, name)
            if isinstance(found, Path):
                self._secrets.forget(found)
                remedy = _PEM_REMEDIES.get(name, "write the secret into it")
                detail = f"names a file that does not exist; {remedy}"
                self.complain(f"{pointer}/{name}_file", detail)
                found = ""
            # As it was written, so that the protocol's check sees a number that lacks quotes.
            secrets[name] = own.get(name, found or "")
        return secrets

    def _protocol(self, good: dict[str, Any], pointer: str) -> CarrierProtocol | None:
        name = good.get("protocol")
        if name is None:
            return None
        protocol = self._around.protocols.get(name) if isinstance(name, str) else None
        if protocol is None:
            known = ", ".join(self._around.protocols)
            self.complain(f"{pointer}/protocol", f"must be one of {known}")
        return protocol

    def _route(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.ROUTE)
        tenant = good.get("tenant", "*")
        if tenant != "*" and not self._exists("tenant", tenant):
            detail = 'names no tenant of this file or gateway; add it, or write "*"'
            self.complain(f"{pointer}/tenant", detail)
        message_class = good.get("class", "*")
        if "channels" not in good:
            return
        channels = self._route_channels(good["channels"], f"{pointer}/channels")
        country = good.get("country", "*")
        carrier = good.get("carrier", "*")
        spec = {
            "tenant": tenant,
            "class": message_class,
            "carrier": carrier,
            "country": 0 if country == "*" else country,
            "channels": channels,
        }
        weights = self._route_weights(good.get("weights"), len(channels), f"{pointer}/weights")
        if weights:
            spec["weights"] = weights
        name = f"{tenant}/{message_class}/{carrier}/{country}"
        self._route_pointers[name] = pointer
        self._take(Wanted("route", name, spec), pointer)

    def _route_channels(self, value: object, pointer: str) -> list[str]:
        most = 1 + fields.MAX_BACKUPS
        wrong = fields.list_of(fields.name, least=1)(value)
        if wrong is not None or not isinstance(value, list):
            self.complain(pointer, wrong or "must be a list")
            return []
        if len(value) > most:
            detail = f"has {len(value) - 1} backups; at most {fields.MAX_BACKUPS} may follow"
            self.complain(pointer, f"{detail} the primary, remove some")
        for index, name in enumerate(value):
            if not self._exists("channel", name):
                detail = "names no channel of this file or gateway; add it or correct the name"
                self.complain(member(pointer, index), detail)
        return value

    def _route_weights(self, value: list[int] | None, channels: int, pointer: str) -> list[int]:
        """As they are stored: backups at the end, whose weight is 0, need none."""
        weights = list(value or ())
        while weights and not weights[-1]:
            weights.pop()
        if len(weights) > channels:
            detail = f"has {len(weights)} entries for {channels} channels; give one beside each"
            self.complain(pointer, detail)
        return weights

    def _template(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.TEMPLATE)
        tenant = good.get("tenant", "*")
        if tenant != "*" and not self._exists("tenant", tenant):
            detail = 'names no tenant of this file or gateway; add it, or write "*"'
            self.complain(f"{pointer}/tenant", detail)
        wrong = fields.twins_refusals(good.get("twins", {}), good.get("text"))
        for path, detail in wrong:
            self.complain(reduce(member, path, f"{pointer}/twins"), detail)
        if wrong or not {"name", "class", "text"} <= good.keys():
            return
        for channel in good.get("twins", {}):
            if not self._exists("channel", channel):
                detail = "names no channel of this file or gateway; add it or correct the name"
                self.complain(member(f"{pointer}/twins", channel), detail)
        name = f"{tenant}/{good['name']}"
        self._template_pointers[name] = pointer
        self._take(Wanted("template", name, template_spec(good, tenant)), pointer)

    def _endpoint(self, value: object, pointer: str) -> None:
        good = self._fields(value, pointer, fields.WEBHOOK_ENDPOINT)
        if "tenant" in good and not self._exists("tenant", good["tenant"]):
            detail = "names no tenant of this file or gateway; add it or correct the name"
            self.complain(f"{pointer}/tenant", detail)
        if "url" in good:
            wrong = url_refusal(good["url"], self._around.allow)
            if wrong is not None:
                self.complain(f"{pointer}/url", wrong)
        if "tenant" not in good or "url" not in good:
            return
        name = endpoint_name(good["tenant"], good["url"])
        standing = self._around.known.get(("webhook_endpoint", name), {})
        spec = endpoint_spec(good, good["tenant"], standing.get("disabled"))
        wanted = Wanted("webhook_endpoint", name, spec)
        secret = self._secrets.read(good, pointer, "secret")
        wanted.is_secret_open = "secret" not in good and "secret_file" not in good
        if isinstance(secret, Path):
            wanted.make_in = secret
        elif secret is not None:
            try:
                wanted.secrets = {"secrets": [parse_secret(secret.strip())]}
            except ValueError as error:
                at = f"{pointer}/{'secret' if 'secret' in good else 'secret_file'}"
                self.complain(at, f"is not right: {error}; give whsec_… or remove it to get one")
        self._take(wanted, pointer)


def _setting_code(detail: str) -> str:
    if detail.startswith(NOT_A_SETTING):
        return "field.unknown"
    return "field.missing" if detail.startswith("is missing") else "field.value"


def _setting_detail(pointer: str, detail: str) -> str:
    """What a protocol said about a setting, with every channel's fields where it is unknown."""
    if not detail.startswith(NOT_A_SETTING):
        return detail
    name = pointer.removeprefix("/")
    near = difflib.get_close_matches(name, fields.CHANNEL, n=1, cutoff=CLOSE_SPELLING)
    if near:
        return f"is not a field of a channel; did you mean `{near[0]}`?"
    if "did you mean" in detail:
        return detail
    return f"{detail}; every channel has {', '.join(fields.CHANNEL)}"
