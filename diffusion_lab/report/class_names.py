"""What a class is called in a report: by the choice of a config group that builds it, as on the command line.

Hydra knows the choices only while it composes; the config of a run holds the classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml

from diffusion_lab.conf_dir import CONF


def choice_of(group: str, target: str) -> str:
    """The choice of a group (sampler.spacing) that builds the class (a.b.LogSNRSpacing): log_snr.

    The name of the class where none of the group's choices builds it, as it is with a user's own, or several do.
    """
    choices = _choices_by_class(group).get(target, [])
    return choices[0] if len(choices) == 1 else target.rpartition(".")[2]


@cache
def _choices_by_class(group: str) -> Mapping[str, list[str]]:
    choices = defaultdict(list)
    parts = group.split(".")
    if all(part.isidentifier() for part in parts):  # a stranger's config names no folder of ours in another way
        for file in sorted(CONF.joinpath(*parts).glob("*.yaml")):
            for target in _targets(file, parts[-1]):
                choices[target].append(file.stem)
    return choices


def _targets(file: Path, name: str) -> Iterator[str]:
    """The class that a choice builds: its own, or those of the choices of its group that it starts from."""
    content = yaml.safe_load(file.read_text()) or {}  # a file of comments only changes nothing
    group = content.get(name)  # where the choice sets other groups too
    for part in (content, group):
        if isinstance(part, Mapping) and "_target_" in part:
            yield part["_target_"]
            return
    for base in content.get("defaults", []):
        if isinstance(base, str) and (file.parent / f"{base}.yaml").is_file():
            yield from _targets(file.parent / f"{base}.yaml", name)
