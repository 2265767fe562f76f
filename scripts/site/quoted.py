"""A page shows a function of the package as it is today: its source is read when the site is built.

In a page, a paragraph that is nothing but a link, with a name in the package for its text and a Python file for its target, is
replaced by the source of that name. On GitHub it stays a link.

    [`ForwardProcess.q_sample`](../diffusion_lab/diffusion/forward.py)
"""

import ast
import re
from pathlib import Path

QUOTE = re.compile(r"^\[`([A-Za-z_][\w.]*)`\]\(([^)\s]+\.py)\)$", re.MULTILINE)


def source_of(file: Path, name: str) -> str:
    """The source of a class, a function or a method, without its indentation. LookupError if the file does not define it."""
    text = file.read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        found = [
            entry
            for entry in body
            if isinstance(entry, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and entry.name == part
        ]
        if not found:
            raise LookupError(f"{file} does not define {name}")
        node = found[-1]
        body = node.body
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def with_sources(markdown: str, folder: Path, package: Path) -> str:
    """The page with every quote replaced. folder: where the page lies, to which its links are relative."""

    def quoted(found: re.Match) -> str:
        name, link = found.groups()
        file = (folder / link).resolve()
        return f'```python title="{file.relative_to(package.parent).as_posix()} · {name}"\n{source_of(file, name)}\n```'

    return QUOTE.sub(quoted, markdown)
