"""docs/operate.md lists every metric as telemetry/metrics.py has it."""

from pathlib import Path

from telemetry.metrics import PREFIX, Metrics

OPERATE = Path(__file__).parents[3] / "docs" / "operate.md"


def rows():
    for series in Metrics().series():
        labels = ", ".join(f"`{label}`" for label in series.labels) or "–"
        yield f"| `{PREFIX}{series.name}` | {series.kind} | {labels} | {series.help} |"


def test_the_catalogue_of_metrics_is_complete():
    """When it fails: the table is `python -m tests.unit.telemetry.test_catalogue`."""
    _, _, told = OPERATE.read_text("utf-8").partition("## All metrics")
    assert [line for line in told.splitlines() if line.startswith("| `")] == list(rows())


if __name__ == "__main__":
    print("| metric | kind | labels | meaning |\n|---|---|---|---|", *rows(), sep="\n")
