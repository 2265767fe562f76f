"""The comments of a yaml file in conf/: on the choice that it is, on the groups that it chooses from, on its options."""

from __future__ import annotations

import re
from itertools import takewhile

_KEY = re.compile(r"^(\s*)([\w./@]+):(?:\s+(.*))?$")
_CODE_AND_COMMENT = re.compile(r"""^((?:[^#'"]|'[^']*'|"[^"]*"|(?<!\s)#)*?)(?:(?:^|\s+)#\s?(.*))?$""")
_GROUP = re.compile(r"^  - (?:override |optional )?/?([\w/]+): ([^\s#]+)[^\S\n]*(?:# (.*))?$", re.MULTILINE)


def is_global(text: str) -> bool:
    """Whether the names of a file's options are whole: it holds no options of its own group alone."""
    return text.startswith("# @package _global_")


def first_comment(text: str) -> str:
    """What the file says of its choice, on one line."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines if "@package" not in line)


def groups_of(text: str) -> list[tuple[str, str, str]]:
    """(group, choice, comment) of the defaults list."""
    return [entry for entry in _GROUP.findall(text) if entry[0] not in ("hydra/job_logging", "hydra/hydra_logging")]


def options_of(text: str) -> list[tuple[str, str, str]]:
    """(option, value, comment) of everything below the defaults list, but for keys such as `_target_` and those of Hydra."""
    rows: list[tuple[str, str, str]] = []
    place: list[tuple[int, str]] = []  # the keys that enclose a line, with their indentation
    above: list[str] = []  # comment lines of their own, which belong to the key below
    for line in text.splitlines():
        code, comment = _split(line)
        if not code.strip():
            above = [*above, comment] if comment else []
            continue
        found = _KEY.match(code)
        if found is None:
            above = []
            continue
        indent, key, value = len(found[1]), found[2], (found[3] or "").strip()
        place = [entry for entry in place if entry[0] < indent]
        path = ".".join([*(name for _, name in place), key])
        place.append((indent, key))
        internal = path.split(".")[0] in ("defaults", "hydra") or key.startswith("_") or value.startswith("|")
        said = " ".join([*above, comment] if comment else above)
        above = []
        if not internal and (value or said):
            rows.append((path, value, said))
    return rows


def _split(line: str) -> tuple[str, str]:
    """A line of yaml without its comment, and the comment."""
    found = _CODE_AND_COMMENT.match(line)
    return (found[1].rstrip(), (found[2] or "").strip()) if found else (line, "")
