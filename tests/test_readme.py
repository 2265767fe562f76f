import re
from pathlib import Path

import pytest

from diffusion_lab.conf_dir import CONF

ROOT = Path(__file__).parent.parent
CHOICES = (ROOT / "docs" / "choices.md").read_text()
THEORY = (ROOT / "docs" / "theory.md").read_text()


@pytest.mark.thorough
def test_the_example_runs_and_learns_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", THEORY, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    namespace = {}
    exec(code, namespace)
    wide, narrow = namespace["samples"].std(dim=0).tolist()
    assert wide == pytest.approx(0.5, abs=0.1)
    assert narrow == pytest.approx(0.1, abs=0.05)


def table_of_choices() -> dict[str, str]:
    """What the table says, by group."""
    said = {}
    for first, choices in re.findall(r"^\| (.*`.*) \| (.+?) \| .*\|$", CHOICES, flags=re.MULTILINE):
        groups = re.findall(r"`([a-z_/]+)`", first)
        if first.startswith("of `model="):  # `group`: its choices; another
            for group, part in re.findall(r"`([a-z_]+)`: ([^;]*)", choices):
                said[group] = said.get(group, "") + part
        elif all((CONF / group).is_dir() for group in groups):
            parts = choices.split("; ") if len(groups) > 1 else [choices]
            said |= zip(groups, parts, strict=True)
    return said


def choices_of(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "network"} | {
    "sampler/spacing",
    "objective/residual",
}


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_the_table_has_every_group_and_names_choices_that_are_there(group):
    """Not all of them: `--help` lists those, and a new one needs no line here."""
    named = set(re.findall(r"`([a-z0-9_]+)`", table_of_choices()[group]))
    assert choices_of(group) & named
    every = set().union(*map(choices_of, GROUPS))
    assert named <= every, "the table names what is not there"


def test_the_table_names_families_and_sizes_of_networks_that_are_there():
    named = re.findall(r"`([a-z_…]+)/([a-z0-9]+)`", table_of_choices()["network"])
    families = {path.name for path in (CONF / "network").iterdir()}
    assert {family for family, _ in named} <= families | {"…"}
    assert {size for _, size in named} <= set().union(*(choices_of(f"network/{family}") for family in families))
    for family, size in named:
        assert family == "…" or size in choices_of(f"network/{family}")
