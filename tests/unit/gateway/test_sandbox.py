from dataclasses import replace

import pytest

from gateway.document import Surroundings, Wanted, check_document
from gateway.protocols import PROTOCOLS
from gateway.sandbox_config import (
    CARRIERS,
    LIMIT,
    ROUTES,
    Ports,
    configuration,
    what_is_missing,
)
from store.objects import StoredObject
from webhooks.address import AllowList

NAMES = [carrier.name for carrier in CARRIERS]
PORTS = Ports((7890, 8801, 8890, 8090, 2775), (2785, 2786, 2787, 2788, 2789), 9900, 9901)
ALLOW = AllowList.of(["http://127.0.0.1:9900"])


def test_the_configuration_passes_the_ordinary_door(folder):
    wanted, complaints = check_document(
        configuration(PORTS), Surroundings(folder, {}, PROTOCOLS, ALLOW)
    )
    assert complaints == []
    by_kind: dict[str, list[Wanted]] = {}
    for one in wanted:
        by_kind.setdefault(one.kind, []).append(one)
    assert [one.name for one in by_kind["channel"]] == NAMES
    protocols = [one.spec["protocol"] for one in by_kind["channel"]]
    assert protocols == ["cmpp3", "sgip", "smgp", "infobip", "smpp"]
    [tenant] = by_kind["tenant"]
    assert tenant.spec["countries"] == [86, 1]
    assert LIMIT in tenant.spec.get("limits", tenant.spec).values()
    routes = {one.spec["carrier"]: one.spec["channels"] for one in by_kind["route"]}
    assert routes == {carrier: list(names) for carrier, names in ROUTES.items()}
    assert {names[0] for names in routes.values()} == set(NAMES) - {"vendor-a"}
    assert all(len(set(names)) == 4 for names in routes.values())
    assert {names[3] for names in routes.values()} == {"vendor-a"}  # the third backup
    [endpoint] = by_kind["webhook_endpoint"]
    assert endpoint.spec["batch"] is True


def test_all_ports_are_told():
    assert len(set(PORTS.all())) == 12


def stored(text, folder):
    """What the store holds once the text was applied to it."""
    wanted, complaints = check_document(text, Surroundings(folder, {}, PROTOCOLS, ALLOW))
    assert complaints == []
    return {
        (one.kind, one.name): StoredObject(number, 1, one.spec, one.secrets)
        for number, one in enumerate(wanted, 1)
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "carrier.pw").write_text("0123abcd\n")
    (tmp_path / "sandbox" / "callback.secret").write_text("c" * 32 + "\n")
    (tmp_path / "sandbox" / "webhook.secret").write_text("whsec_" + "A" * 43 + "=\n")
    return tmp_path


def test_the_first_start_lacks_all_and_the_second_nothing(folder):
    first = what_is_missing(PORTS, {}, "0123abcd", has_keys=False)
    known = stored(first, folder)
    assert known.keys() == stored(configuration(PORTS), folder).keys()
    assert what_is_missing(PORTS, known, "0123abcd", has_keys=True) == ""


def test_a_later_start_takes_back_nothing_an_operator_applied(folder):
    known = stored(configuration(PORTS), folder)
    known["route", "*/*/*/*"].spec["channels"] = ["unicom-a"]
    known["tenant", "sandbox"].spec["signatures"] = ["别的"]
    known["channel", "mobile-a"].spec["window"] = 3
    assert what_is_missing(PORTS, known, "0123abcd", has_keys=True) == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_carrier_that_moved_keeps_the_rest_of_its_settings(folder, name):
    known = stored(configuration(PORTS), folder)
    was = known["channel", name]
    was.spec["window"] = 3
    place = NAMES.index(name)
    moved = replace(PORTS, carrier=(*PORTS.carrier[:place], 3775, *PORTS.carrier[place + 1 :]))
    text = what_is_missing(moved, known, "0123abcd", has_keys=True)
    around = Surroundings(folder, {key: one.spec for key, one in known.items()}, PROTOCOLS, ALLOW)
    [wanted], complaints = check_document(text, around)
    assert complaints == []
    assert (wanted.kind, wanted.name) == ("channel", name)
    moved_to = CARRIERS[place].address(3775)
    assert wanted.spec == {**was.spec, "settings": {**was.spec["settings"], **moved_to}}
    assert wanted.secrets == was.secrets


@pytest.mark.parametrize("name", NAMES)
def test_a_carrier_with_another_password_is_applied_again(folder, name):
    known = stored(configuration(PORTS), folder)
    [carrier] = [carrier for carrier in CARRIERS if carrier.name == name]
    known["channel", name].secrets[carrier.secret] = "other"
    text = what_is_missing(PORTS, known, "0123abcd", has_keys=True)
    assert [carrier for carrier in NAMES if carrier in text] == [name]


def test_a_sandbox_of_a_version_before_gets_the_new_carriers_and_routes(folder):
    """It had four carriers of SMPP; on their ports others speak now."""
    before = [f"carrier-{letter}" for letter in "abcd"]
    channels = "".join(
        f"  - {{name: {name}, protocol: smpp, host: 127.0.0.1, port: {port},"
        " system_id: sandbox, password_file: sandbox/carrier.pw, bind: trx}\n"
        for name, port in zip(before, PORTS.carrier[:4], strict=True)
    )
    route = f'routes: [{{tenant: "*", class: "*", carrier: "*", channels: {before}}}]\n'
    known = stored("channels:\n" + channels + route, folder)
    text = what_is_missing(PORTS, known, "0123abcd", has_keys=True)
    around = Surroundings(folder, {key: one.spec for key, one in known.items()}, PROTOCOLS, ALLOW)
    wanted, complaints = check_document(text, around)
    assert complaints == []
    routes = {one.name: one.spec["channels"] for one in wanted if one.kind == "route"}
    assert routes["*/*/*/*"] == list(ROUTES["*"])
    assert [one.name for one in wanted if one.kind == "channel"] == NAMES
