import yaml

from loadtest.load import arguments, configuration
from loadtest.loadreport import plots
from loadtest.traffic import TENANTS

CARRIERS = ["carrier-a", "carrier-b", "carrier-c", "carrier-d"]


def test_every_network_has_its_own_primary_and_all_the_others_behind_it():
    made = yaml.safe_load(configuration(CARRIERS, "http://127.0.0.1:9900/hooks"))
    routes = {route["carrier"]: route["channels"] for route in made["routes"]}
    assert [routes[n][0] for n in ("CM", "CU", "CT", "CB", "other")] == [*CARRIERS, "carrier-d"]
    assert all(sorted(channels) == CARRIERS for channels in routes.values())
    assert len(made["tenants"]) == len(made["webhook_endpoints"]) == len(TENANTS)


def test_the_switch_is_marked_in_every_plot():
    answers = {"seconds": [2.5], "p50": [1.0], "p99": [2.0], "maximum": [3.0]}
    flow = {key: [1] for key in ("seconds", "due", "accepted", "submitted", "delivered")}
    found = {
        "series": {**flow, "delivered_by_channel": {"carrier-a": [1]}, "answers": answers},
        "cores": {"seconds": [1.0], "worker": [0.5]},
        "switch": {"carrier": "carrier-b", "off_s": 150.0, "on_s": None},
    }
    drawn = plots(found)
    assert [plot["marks"] for plot in drawn] == [[{"at": 150.0, "text": "carrier-b off"}]] * 4
    assert drawn[0]["lines"] == [{"label": "carrier-a", "x": [1], "y": [1]}]


def test_the_rate_of_the_users_task_is_the_default():
    options = arguments().parse_args([])
    assert (options.per_minute, options.seconds) == (100_000, 300.0)
