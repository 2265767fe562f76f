"""The contract of a check, and how checks are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

OK, LACKS, BROKEN = "ok", "missing", "broken"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    state: OK; LACKS: some commands or options do not work here; BROKEN: `diffusion-lab train` does not work here.
    found: what is there. to_do: the one thing that the user can do about it, empty where nothing is wrong.
    """

    name: str
    state: str
    found: str
    to_do: str = ""


@dataclass(frozen=True)
class Check:
    """look() -> findings. It may import the package that it checks, and raises nothing but ImportError.

    needed: whether the default command needs what is checked.
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    needed: bool = False


def run_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings of all checks, in their order. A package that cannot be imported is a finding, too."""
    for check in checks:
        try:
            yield from check.look()
        except ImportError as error:
            state = BROKEN if check.needed else LACKS
            reason = " ".join(str(error).split())
            yield Finding(check.name, state, f"not checked: {reason}", "repair the installation of the package")
