"""A hook of MkDocs: pages of the site that lie outside docs/, where a repository has them, and links between the two.

On a page, a link is written as it works in the repository, `../CONTRIBUTING.md` or `../examples/drop_in.py`; in the
site it leads to the page that is made of that file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
DOCS = "docs"

_CARDS = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "deepcache_trt" / "models").glob("*/README.md")))
_MARKDOWN = ("CONTRIBUTING.md", "CHANGELOG.md", *_CARDS)
_SCRIPTS = tuple(f"examples/{path.name}" for path in sorted((ROOT / "examples").glob("*.py")))

# The place in the site of each file of the repository that has another one there; what lies in docs/ is found by rule.
_PLACES = {
    **{name: name for name in _MARKDOWN},
    **{name: f"{name.removesuffix('.py')}.md" for name in _SCRIPTS},
    "README.md": "index.md",
}
_FILES = {place: name for name, place in _PLACES.items() if name != "README.md"}

_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside."""
    for place, name in _FILES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            text = f"# {name}\n\n```python\n{text}```\n"
        files.append(File.generated(config, place, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that work in the repository into links that work in the site."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, place: str) -> str:
    """The text of the page at `place` in the site, its links from one side of docs/ to the other turned.

    Args:
        markdown: with links as in the repository.
        place: of the page in the site, such as "caching.md" or "examples/drop_in.md".
    """
    here = posixpath.dirname(_FILES.get(place, f"{DOCS}/{place}"))

    def turned(link: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(here, link["path"]))
        there = _PLACES.get(name) or name.removeprefix(f"{DOCS}/")
        if there == name and name not in _PLACES:
            return link["path"]
        return posixpath.relpath(there, posixpath.dirname(place) or ".")

    return _LINK.sub(turned, markdown)
