from dataclasses import replace

import pytest

from adapters.smpp.settings import validate
from gateway.document import Surroundings, Wanted, check_document
from gateway.protocols import PROTOCOLS
from gateway.sandbox import CARRIERS, LIMIT, Ports, configuration, what_is_missing
from store.objects import StoredObject
from webhooks.address import AllowList

PORTS = Ports((2775, 2776, 2777, 2778), (2785, 2786, 2787, 2788), 9900, 9901)
ALLOW = AllowList.of(["http://127.0.0.1:9900"])


def test_the_configuration_passes_the_ordinary_door(folder):
    wanted, complaints = check_document(
        configuration(PORTS), Surroundings(folder, {}, PROTOCOLS, ALLOW)
    )
    assert complaints == []
    by_kind: dict[str, list[Wanted]] = {}
    for one in wanted:
        by_kind.setdefault(one.kind, []).append(one)
    assert [one.name for one in by_kind["channel"]] == list(CARRIERS)
    [tenant] = by_kind["tenant"]
    assert tenant.spec["countries"] == [86, 1]
    assert LIMIT in tenant.spec.get("limits", tenant.spec).values()
    [route] = by_kind["route"]
    assert route.spec["channels"] == list(CARRIERS)
    [endpoint] = by_kind["webhook_endpoint"]
    assert endpoint.spec["batch"] is True
    assert validate is PROTOCOLS["smpp"].validate


def test_all_ports_are_told():
    assert len(set(PORTS.all())) == 10


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
    (tmp_path / "sandbox" / "webhook.secret").write_text("whsec_" + "A" * 43 + "=\n")
    return tmp_path


def test_the_first_start_lacks_all_and_the_second_nothing(folder):
    first = what_is_missing(PORTS, {}, "0123abcd", has_keys=False)
    known = stored(first, folder)
    assert known.keys() == stored(configuration(PORTS), folder).keys()
    assert what_is_missing(PORTS, known, "0123abcd", has_keys=True) == ""


def test_a_later_start_takes_back_nothing_an_operator_applied(folder):
    known = stored(configuration(PORTS), folder)
    known["route", "*/*/*/*"].spec["channels"] = ["carrier-b"]
    known["tenant", "sandbox"].spec["signatures"] = ["别的"]
    known["channel", "carrier-a"].spec["window"] = 3
    assert what_is_missing(PORTS, known, "0123abcd", has_keys=True) == ""


def test_a_carrier_that_moved_keeps_the_rest_of_its_settings(folder):
    known = stored(configuration(PORTS), folder)
    known["channel", "carrier-a"].spec["window"] = 3
    moved = replace(PORTS, smpp=(3775, *PORTS.smpp[1:]))
    text = what_is_missing(moved, known, "0123abcd", has_keys=True)
    around = Surroundings(folder, {key: one.spec for key, one in known.items()}, PROTOCOLS, ALLOW)
    [wanted], complaints = check_document(text, around)
    assert complaints == []
    assert (wanted.kind, wanted.name) == ("channel", "carrier-a")
    assert wanted.spec["window"] == 3
    assert wanted.spec["settings"]["port"] == 3775
    assert wanted.secrets == {"password": "0123abcd"}
