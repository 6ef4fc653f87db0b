"""The site of `make docs`, built by Sphinx from README.md, CHANGELOG.md and docs/.

The pages stand where they are read on their own, too, so nothing in them is Sphinx's: the
navigation is made from the links of docs/index.md and of each folder's README.md, and anchors are
GitHub's. A page that no index names, a missing file and a missing heading end the build (`-W`).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "smsgw"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**.md"]
exclude_patterns = ["build", "tests", ".*"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "smsgw"
html_extra_path = ["site"]  # the first page of the folder leads to docs/index.html
html_copy_source = False
html_show_sphinx = False
pygments_style = "default"

_SECTION: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_PAGE: Final = re.compile(r"\]\(([^):#]+\.md)\)")
_TREE: Final = "\n```{{toctree}}\n:hidden:\n:caption: {caption}\n{pages}\n```\n"


def _trees(text: str) -> str:
    """A hidden table of contents for each section, with the pages that it links to."""
    title, *sections = _SECTION.split(text)
    trees = [("Contents", title), *zip(sections[::2], sections[1::2], strict=True)]
    named: set[str] = set()
    made = []
    for caption, part in trees:
        pages = [page for page in dict.fromkeys(_PAGE.findall(part)) if page not in named]
        named.update(pages)
        if pages:
            made.append(_TREE.format(caption=caption, pages="\n".join(pages)))
    return "".join(made)


def _add_navigation(_app: Sphinx, name: str, source: list[str]) -> None:
    page = PurePosixPath(name)
    if name == root_doc:
        source[0] += _trees(source[0])
    elif page.name == "README" and page.parent.parts:  # of a folder: only what stands in it
        own = "".join(f"]({found})" for found in _PAGE.findall(source[0]) if "/" not in found)
        source[0] += _trees(own)


def setup(app: Sphinx) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", _add_navigation)
