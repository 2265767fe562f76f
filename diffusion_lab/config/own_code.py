"""Errors in the user's own code, in one sentence: a `_target_` that cannot be imported, the line that raised an error."""

from __future__ import annotations

import difflib
import sysconfig
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

_NOT_OWN = ("<", f"{sysconfig.get_path('stdlib')}/", f"{Path(__file__).parents[1]}/")


def own_line(error: BaseException) -> str | None:
    """A phrase on the last line of the user's own code that raised or passed the error: "mine.py, line 7: NameError: …"."""
    if isinstance(error, SyntaxError):
        passed, said = [(error.filename or "<", error.lineno)], error.msg
    else:
        passed = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for name, line in reversed(passed):
        file = Path(name)
        if not name.startswith(_NOT_OWN) and not {"site-packages", "dist-packages"} & {*file.parts}:
            return f"{file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}, line {line}: {said}"
    return None


def why_not_found(target: str) -> str | None:
    """The reason why the object that a `_target_` names is not found; None if it is. An error in the lab's own code is raised."""
    found, above = None, ""
    for part in target.split("."):
        path = f"{above}.{part}" if above else part
        if not hasattr(found, part):
            try:
                import_module(path)
            except Exception as error:
                is_missing = isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}.")
                return _not_in(found, above, part) if is_missing else _not_imported(error)
        found, above = import_module(path) if found is None else getattr(found, part), path
    return None


def _not_in(found: Any, above: str, part: str) -> str:
    if found is None:
        return f"there is no module {part}"
    meant = "".join(f"; did you mean {close}?" for close in difflib.get_close_matches(part, dir(found), n=1))
    return f"{above} has no {part}{meant}"


def _not_imported(error: Exception) -> str:
    """One sentence for an error raised while a module is imported; an ImportError may say what to install."""
    if (line := own_line(error)) is None and not isinstance(error, ImportError):
        raise error
    return line or " ".join(str(error).split())
