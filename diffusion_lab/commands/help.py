"""`diffusion-lab COMMAND --help`: choices and main options; with the name of a group, each of its choices and options.

Imports no torch.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_lab.config.comments import first_comment, groups_of, is_global, options_of
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.unknown_names import unknown_option
from diffusion_lab.store.option_names import flat

_OFTEN_SET = (  # options of groups that are shown without their group being named
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.precision",
    "data.batch_size",
    "optimizer.lr",
    "sampler.spacing.num_steps",
    "evaluation.num_samples",
)
_WIDTH = 120  # at most, and as wide as a terminal is


def show(command: str, cfg: DictConfig, asked: Sequence[str]) -> None:
    """Print the help of a command, or of what is asked for: names of groups, such as sampler/spacing, or of options."""
    help_of = _Help(command, cfg)
    print("\n".join(line for name in asked for line in help_of.on(name)) if asked else "\n".join(help_of.overview()))


class _Help:
    """The lines of a command's help. cfg: its composed config."""

    def __init__(self, command: str, cfg: DictConfig) -> None:
        self.command, hydra = command, HydraConfig.get()
        self.header, self.footer = hydra.help.header, hydra.help.footer
        self.folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
        self.primary = self._text(str(hydra.job.config_name))
        plain = as_plain(cfg)
        made = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra")}
        listed = {
            group: [*plain[group]] for group, _, _ in groups_of(self.primary) if group not in made and group in plain
        }
        # Group -> what is chosen of it, in the order of the defaults lists, which Hydra reverses.
        self.chosen = {group: _names(choice) for group, choice in reversed([*made.items()])} | listed
        self.values = {key: value for key, value in flat(plain).items() if _is_option(key, value)}
        self.comments = {name: comment for name, _, comment in options_of(self.primary) if comment}
        for group, choices in self.chosen.items():
            for choice in choices:
                self.comments |= self._comments(group, f"{group}/{choice}")

    def overview(self) -> Iterator[str]:
        """What the command does, the choices of each group in a line or two, the command's own options."""
        yield from (self.header, "", f"  {self.footer}", "")
        several = {group: names for group in self.chosen if len(names := self._choices(group)) > 1}
        if several:
            yield "Choices, as group=choice; what stands first is the default"
            yield from _table((self._written(group), " ".join(self._others(group))) for group in several)
            yield ""
        own = [name for name, _, _ in options_of(self.primary) if name.count(".") < 2]
        yield "Options, as option=value, and their defaults"
        yield from self._options([name for name in dict.fromkeys([*own, *_OFTEN_SET]) if name in self.values])
        yield ""
        yield "More"
        yield from _table(self._more("sampler" if "sampler" in several else next(iter(several), "")))

    def _more(self, group: str) -> Iterator[tuple[str, str]]:
        if group:
            yield f"--help {group}", "each choice of a group in a sentence, and all its options"
        if self.command == "train":
            yield "--help model=gan", "this page with other choices"
        yield "--cfg job", "the whole config with your changes, before anything runs; --cfg job -p NAME: one part of it"
        if self.command == "train":
            yield "-m", "a sweep: every combination of the values that you divide by commas"
            yield "--help sweep", "a sweep that adds seeds until each difference is decided"

    def on(self, name: str) -> Iterator[str]:
        """The choices of a group, and all options below a name."""
        group, option = name.rstrip("/."), name.rstrip("/.").replace("/", ".")
        choices = self._choices(group) if group in self.chosen else []
        options = [key for key in self.values if f"{key}.".startswith(f"{option}.")]
        if not choices and not options:
            raise MistakeError(unknown_option(name, [*self.chosen, *self.values], self.command))
        if choices:
            yield f"{group}=CHOICE, now {self._written(group)}"
            yield from _table((choice, _sentence(first_comment(self._text(f"{group}/{choice}")))) for choice in choices)
            yield ""
        if options:
            yield f"Options of {self._written(group) if choices else name}"
            yield from self._options(options)
            yield ""

    def _options(self, names: Sequence[str]) -> Iterator[str]:
        return _table((f"{name}={_written(self.values[name])}", self.comments.get(name, "")) for name in names)

    def _written(self, group: str) -> str:
        """A group with what is chosen of it, as on the command line."""
        chosen = self.chosen[group]
        return f"{group}={chosen[0] if len(chosen) == 1 else _written(chosen)}" if chosen else group

    def _others(self, group: str) -> list[str]:
        return [choice for choice in self._choices(group) if choice not in self.chosen[group]]

    def _choices(self, group: str) -> list[str]:
        """All choices of a group; of networks, those of the model's family."""
        family = "".join(choice.partition("/")[0] + "/" for choice in self.chosen[group][:1] if "/" in choice)
        found = {file.stem for folder in self.folders for file in (folder / group / family).glob("*.yaml")}
        return [f"{family}{choice}" for choice in sorted(found)]

    def _comments(self, group: str, file: str) -> dict[str, str]:
        """Option -> comment, of the file of a choice and of those that it begins with."""
        text = self._text(file)
        found: dict[str, str] = {}
        for other in (yaml.safe_load(text) or {}).get("defaults", []):
            if isinstance(other, str) and other != "_self_":
                path = other.partition("@")[0]
                found |= self._comments(
                    group, path[1:] if path.startswith("/") else f"{file.rpartition('/')[0]}/{path}"
                )
        prefix = "" if is_global(text) else f"{group.replace('/', '.')}."
        return found | {prefix + name: comment for name, _, comment in options_of(text) if comment}

    def _text(self, name: str) -> str:
        """The text of a file of the search path; empty if there is none, such as for what Hydra itself brings."""
        files = (folder / f"{name}.yaml" for folder in self.folders)
        return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")


def _is_option(key: str, value: Any) -> bool:
    """Whether a user sets it: no class, no reference to another option, no fact about the data."""
    is_internal = key.rpartition(".")[2].startswith("_") or key.startswith("facts.") or value == {}
    return not is_internal and not (isinstance(value, str) and value.startswith("${"))


def _names(choice: str | None) -> list[str]:
    return re.findall(r"[^\[\], ]+", choice or "")


def _written(value: Any) -> str:
    """A value as on the command line."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case list():
            return f"[{','.join(map(_written, value))}]"
        case "???":  # it has no default
            return "…"
    return str(value)


def _sentence(text: str) -> str:
    """The first sentence; an abbreviation such as et al. ends none."""
    return re.split(r"(?<!\bal)\.\s+(?=[A-Z`])", text)[0].rstrip(".")


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Two columns, the second broken into lines."""
    rows = [*rows]
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    column = min(max((len(name) for name, _ in rows), default=0), 34)
    for name, text in rows:
        lines = textwrap.wrap(text, max(30, width - column - 5), break_on_hyphens=False) or [""]
        if text and len(name) > column:  # a long name has a line of its own
            yield f"  {name}"
            name = ""
        yield f"  {name:<{column}}   {lines[0]}".rstrip()
        yield from (" " * (column + 5) + line for line in lines[1:])
