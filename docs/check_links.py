"""Check a built site: every link, picture and anchor within it leads somewhere, and nothing is loaded from elsewhere.

python docs/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src"}
"""Tags whose target a browser loads by itself."""


class Page(HTMLParser):
    """The links, anchors and loaded files of one page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if "id" in named:
            self.anchors.add(named["id"])
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        if tag in LOADED and named.get(LOADED[tag]):
            self.loaded.append(named[LOADED[tag]])


def problems(site):
    """Return what is wrong with a site, as lines of text."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [
            f"{name} loads {target}" for target in page.loaded if is_elsewhere(target)
        ]
        targets = [t for t in page.links + page.loaded if not is_elsewhere(t)]
        found += [
            f"{name}: {t} leads nowhere" for t in targets if not leads(path, t, pages)
        ]
    return found


def is_elsewhere(target):
    return bool(urlsplit(target).scheme or urlsplit(target).netloc)


def leads(path, target, pages):
    """Tell whether a link from the page at ``path`` leads to a file, and to an anchor if it names one."""
    parts = urlsplit(target)
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if file.is_dir():
        file /= "index.html"
    if not file.exists():
        return False
    return (
        not parts.fragment
        or file not in pages
        or unquote(parts.fragment) in pages[file].anchors
    )


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "all links lead somewhere")
    sys.exit(bool(wrong))
