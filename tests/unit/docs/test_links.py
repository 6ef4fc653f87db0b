"""Every relative link of README.md, CHANGELOG.md and docs/ leads to a file, and to a heading in it.

Anchors are GitHub's: the heading's text in lower case, without punctuation, spaces as hyphens,
the second one of a name with -1. The site (`make docs`) makes the same.
"""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,}).*?^ {0,3}\2[`~]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(
    r"\]\(\s*<?([^)>\s]*)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE
)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//")


def slug(heading):
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[`*]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors_of(text):
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        name = slug(heading)
        count = found[name] = found.get(name, -1) + 1
        if count:
            found[f"{name}-{count}"] = 0
    return found.keys()


@cache
def anchors(path):
    return anchors_of(path.read_text("utf-8"))


def links(text):
    for one, other in LINK.findall(CODE.sub("", FENCE.sub("", text))):
        target = one or other
        if not EXTERNAL.match(target):
            yield target


def broken(page, text):
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.is_relative_to(ROOT):
            yield f"{target}: outside of the project"
        elif not path.exists():
            yield f"{target}: no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert list(broken(page, page.read_text("utf-8"))) == []


@pytest.mark.parametrize("index", ["index.md", "decisions/README.md", "runbook/README.md"])
def test_an_index_names_every_page_of_its_folder(index):
    """The site's navigation is made from them."""
    page = ROOT / "docs" / index
    named = set(links(page.read_text("utf-8")))
    assert {path.name for path in page.parent.glob("*.md")} - {page.name} - named == set()


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("All metrics", "all-metrics"),
        ("`channel.degraded` and `channel.recovered`", "channeldegraded-and-channelrecovered"),
        ("China Mobile: CMPP 2.0 and 3.0", "china-mobile-cmpp-20-and-30"),
        ("Aliyun 阿里云短信", "aliyun-阿里云短信"),
        ("A – b", "a--b"),
        ("See [this](that.md), now", "see-this-now"),
    ],
)
def test_anchors_are_githubs(heading, anchor):
    assert slug(heading) == anchor


def test_a_broken_link_is_found():
    page = ROOT / "docs" / "x.md"
    good = "[a](admin.md#routes) [b](../README.md) [c](#here) [d](https://a.example) `[e](no.md)`"
    bad = "[a](no.md)\n[b](admin.md#nowhere)\n\n```\n[c](no.md)\n```\n[d](../../x)\n[e]: gone.md\n"
    assert list(links(good)) == ["admin.md#routes", "../README.md", "#here"]
    assert [line.split(":")[0] for line in broken(page, bad)] == [
        "no.md",
        "admin.md#nowhere",
        "../../x",
        "gone.md",
    ]


def test_headings_in_code_are_none_and_equal_ones_are_counted():
    text = "# A\n\n```sh\n# not one\n```\n\n## B\n\n## B\n"
    assert set(anchors_of(text)) == {"a", "b", "b-1"}
