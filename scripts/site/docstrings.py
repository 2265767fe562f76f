"""Our docstrings for mkdocstrings: sections become bold words, `name: meaning` an entry of a list, an aligned block code."""

import re

import griffe

_SECTION = re.compile(r"^(\w[\w ]*)\n-{4,}$", re.MULTILINE)
_ENTRY = re.compile(r"^([\w, `*]+): (?=\S)")


class Docstrings(griffe.Extension):
    """Rewrites each docstring as Markdown before it is rendered."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with sections under a line of hyphens -> Markdown."""
    first, *rest = _SECTION.split(text)
    parts = [_prose(first)]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        parts += [f"**{title}**", _entries(body)]
    return "\n\n".join(part for part in parts if part.strip())


def _prose(text: str) -> str:
    """Text as it is; two pairs of square brackets in a row, as of rows[i][j], are no link."""
    return text.strip("\n").replace("][", "]\\[")


def _entries(body: str) -> str:
    entries: list[str] = []
    for line in body.strip("\n").splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(_ENTRY.sub(r"- **\1**: ", line))
    return "\n".join(entries)
