"""The reference of all config groups, out of the yaml files and their comments."""

import re
from collections.abc import Iterable
from pathlib import Path

from diffusion_lab.config.comments import first_comment, groups_of, is_global, options_of


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
    prefix = "" if is_global(text) else f"{_package(group)}."
    head = first_comment(text).replace("<", "&lt;")  # ema_<decay> is text, not an element of the page
    named = [f"Class: `{target[1]}`", ""] if target else []
    return "\n".join([f"## {_option(group, file.stem)}", "", head, "", *named, options(text, prefix), ""])


def _option(group: str, name: str) -> str:
    """How a choice is written on the command line: the networks of all families are choices of one group."""
    return f"network={group.partition('/')[2]}/{name}" if group.startswith("network/") else f"{group}={name}"


def _package(group: str) -> str:
    """What the names of a group's options begin with."""
    return "network" if group.startswith("network/") else group.replace("/", ".")


def options(text: str, prefix: str = "") -> str:
    """A table of the choices and options of a yaml file with their values and comments. Empty if it has none."""
    rows = [*groups_of(text), *((prefix + name, value, comment) for name, value, comment in options_of(text))]
    if not rows:
        return ""
    table = ["| option | value | |", "|---|---|---|"]
    return "\n".join([*table, *(f"| `{name}` | {_code(value)} | {_cell(comment)} |" for name, value, comment in rows)])


def _code(value: str) -> str:
    return "`" + value.replace("|", "\\|") + "`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
