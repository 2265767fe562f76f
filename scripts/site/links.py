"""Links between the Markdown files of the repository, and what they become on the site."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

_FENCE = re.compile(r"^(```.*?^```[^\S\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """`change` applied to all but the fenced blocks."""
    return "".join(part if part.startswith("```") else change(part) for part in _FENCE.split(markdown))


def links(markdown: str) -> list[str]:
    """The targets of all links and images of a page, outside code."""
    found: list[str] = []

    def collect(text: str) -> str:
        text = re.sub(r"`[^`\n]*`", "", text)
        found.extend(re.findall(r"\]\(([^)\s]+)\)", text))
        return text

    outside_code(markdown, collect)
    return found


def led_to_pages(markdown: str, source: Path, page: str, pages: Mapping[Path, str]) -> str:
    """A page whose links lead to pages of the site. A link to a file that is no page becomes its text.

    source: the file of the page. page: its path on the site. pages: of every file that has a page, its path on the site.
    """

    def led(found: re.Match) -> str:
        text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        there = (source.parent / path).resolve()
        if there in pages:
            to = os.path.relpath(pages[there], os.path.dirname(page) or ".")
            return f"[{text}]({to}{'#' + anchor if anchor else ''})"
        return text

    def images(text: str) -> str:
        def moved(found: re.Match) -> str:
            there = (source.parent / found[2]).resolve()
            return (
                f"![{found[1]}]({os.path.relpath(pages[there], os.path.dirname(page) or '.')})"
                if there in pages
                else found[0]
            )

        return re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\)", moved, text)

    return outside_code(markdown, lambda text: images(_LINK.sub(led, text)))
