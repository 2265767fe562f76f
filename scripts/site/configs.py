"""The reference of all config groups, out of the yaml files and their comments."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

_KEY = re.compile(r"^(\s*)([\w./@]+):(?:\s+(.*))?$")


def groups(conf: Path) -> dict[str, list[Path]]:
    """Group -> the files of its choices, as in conf/sampler/spacing: sampler/spacing."""
    found: dict[str, list[Path]] = {}
    for file in sorted(conf.rglob("*.yaml")):
        group = file.parent.relative_to(conf).as_posix()
        if group != "." and group.split("/")[0] != "local":
            found.setdefault(group, []).append(file)
    return found


def page_of(group: str, files: Iterable[Path], default: str | None) -> str:
    """All choices of a group: what each is, and its options."""
    said = f"`{_option(group, '…')}` chooses one. "
    said += (
        f"The default of `diffusion-lab train` is `{default}`."
        if default
        else "`diffusion-lab train` uses none by default."
    )
    return "\n".join([f"# {group}", "", said, "", *(choice(file, group) for file in files)])


def choice(file: Path, group: str) -> str:
    """One choice: the comment that its file begins with, its class, its options under the names that the command line takes."""
    text = file.read_text(encoding="utf-8")
    target = re.search(r"^ *_target_: (\S+)", text, re.MULTILINE)
    package = re.search(r"^# @package (\S+)$", text, re.MULTILINE)
    prefix = "" if package and package[1] == "_global_" else f"{_package(group)}."
    head = " ".join(
        line.lstrip("# ") for line in itertools.takewhile(_is_comment, text.splitlines()) if "@package" not in line
    ).replace("<", "&lt;")  # ema_<decay> is text, not an element of the page
    named = [f"Class: `{target[1]}`", ""] if target else []
    return "\n".join([f"## {_option(group, file.stem)}", "", head, "", *named, options(text, prefix), ""])


def _option(group: str, name: str) -> str:
    """How a choice is written on the command line: the networks of all families are choices of one group."""
    return f"network={group.partition('/')[2]}/{name}" if group.startswith("network/") else f"{group}={name}"


def _package(group: str) -> str:
    """What the names of a group's options begin with."""
    return "network" if group.startswith("network/") else group.replace("/", ".")


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def options(text: str, prefix: str = "") -> str:
    """A table of the choices and options of a yaml file with their values and comments. Empty if it has none."""
    rows = [(prefix + name, value, comment) for name, value, comment in _rows(text)]
    rows = [*_choices(text), *rows]
    if not rows:
        return ""
    table = ["| option | value | |", "|---|---|---|"]
    return "\n".join([*table, *(f"| `{name}` | {_code(value)} | {_cell(comment)} |" for name, value, comment in rows)])


def _choices(text: str) -> list[tuple[str, str, str]]:
    """The entries of the defaults list that name a group: group, choice, comment."""
    found = re.findall(r"^  - (?:override |optional )?/?([\w/]+): ([^\s#]+)[^\S\n]*(?:# (.*))?$", text, re.MULTILINE)
    return [entry for entry in found if entry[0] not in ("hydra/job_logging", "hydra/hydra_logging")]


def _rows(text: str) -> list[tuple[str, str, str]]:
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
    found = re.match(r"""^((?:[^#'"]|'[^']*'|"[^"]*"|(?<!\s)#)*?)(?:(?:^|\s+)#\s?(.*))?$""", line)
    return (found[1].rstrip(), (found[2] or "").strip().replace("<", "&lt;")) if found else (line, "")


def _code(value: str) -> str:
    return f"`{_cell(value)}`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
