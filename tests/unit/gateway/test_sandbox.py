from adapters.smpp.settings import validate
from gateway.apply import PROTOCOLS
from gateway.document import Surroundings, Wanted, check_document
from gateway.sandbox import CARRIERS, LIMIT, Ports, configuration
from webhooks.address import AllowList

PORTS = Ports((2775, 2776, 2777, 2778), (2785, 2786, 2787, 2788), 9900, 9901)


def test_the_configuration_passes_the_ordinary_door(tmp_path):
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "carrier.pw").write_text("0123abcd\n")
    (tmp_path / "sandbox" / "webhook.secret").write_text("whsec_" + "A" * 43 + "=\n")
    allow = AllowList.of(["http://127.0.0.1:9900"])
    wanted, complaints = check_document(
        configuration(PORTS), Surroundings(tmp_path, {}, PROTOCOLS, allow)
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
    assert validate is PROTOCOLS["smpp"]


def test_all_ports_are_told():
    assert len(set(PORTS.all())) == 10
