"""Every message that a user can meet, as one table: `python -m tests.messages [FOLDER]`.

A message is a string of at least three words in the code that is no docstring: what is raised, printed or returned as a sentence.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = [file for room in ("diffusion_lab", "hydra_plugins") for file in sorted((ROOT / room).rglob("*.py"))]
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class Message:
    """how: raise MistakeError, print, or text for a sentence that is built here and shown elsewhere. {…}: what is filled in."""

    file: Path
    line: int
    how: str
    text: str


def messages(file: Path) -> list[Message]:
    """Those of one file of code, in its order."""
    return sorted(_walk(file, ast.parse(file.read_text(encoding="utf-8")), "text"), key=lambda message: message.line)


def _walk(file: Path, node: ast.AST, how: str) -> Iterator[Message]:
    """The messages in a node; what stands in the braces of an f-string belongs to its message."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        how = f"raise {_name(node.exc.func)}"
    elif isinstance(node, ast.Call) and _name(node.func).endswith(("print", "warn")):
        how = _name(node.func)
    text = _text(node)
    if text is None:
        for child in ast.iter_child_nodes(node):
            yield from _walk(file, child, how)
    elif len(text.split()) >= _FEWEST_WORDS:
        yield Message(file, node.lineno, how, text)


def _name(function: ast.expr) -> str:
    """print of console.print, ValueError of ValueError."""
    return getattr(function, "attr", None) or getattr(function, "id", "")


def _text(node: ast.AST) -> str | None:
    """The text of a string or an f-string; what is filled in as {expression}."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = [part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in node.values]
    return "".join(parts)


def main(folder: str = "") -> None:
    for file in CODE:
        where = file.relative_to(ROOT)
        if str(where).startswith(folder):
            for message in messages(file):
                print(f"{where}:{message.line}\t{message.how}\t{' '.join(message.text.split())}")


if __name__ == "__main__":
    main(*sys.argv[1:])
