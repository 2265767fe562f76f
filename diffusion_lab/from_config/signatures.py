"""What the parameters of a class or function take, read from its source: importing it may take seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import NoneType
from typing import Any

from diffusion_lab.definitions import Code, Node
from diffusion_lab.source import FUNCTIONS

_PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "Any": Any}
_LISTS = ("list", "tuple", "Sequence")


def written_annotations(code: Code, target: str) -> dict[str, Any]:
    """Parameter name -> annotation, of those that are plain, such as int | None or list[int]; empty without a source to read."""
    parameters = (pair for node in code.named(target) for pair in _parameters(code, node))
    return {name: plain for name, annotation in parameters if (plain := _plain(annotation)) is not None}


def _parameters(code: Code, node: Node, below: frozenset[Node] = frozenset()) -> Iterator[tuple[str, ast.expr | None]]:
    """Of a function; of the __init__ of a class, or of the class that it has it from; or the fields of a dataclass.

    below: classes on the way here; one named as its own base, as in class Unet(Unet), leads on to what was imported.
    """
    module = code.module(node.module)
    for statement in module.definitions.get(node.name, []) if module is not None else []:
        if isinstance(statement, FUNCTIONS):
            yield from _arguments(statement)
        elif isinstance(statement, ast.ClassDef):
            body = statement.body
            own = [part for part in body if isinstance(part, FUNCTIONS) and part.name == "__init__"]
            if own:
                yield from _arguments(own[-1])
            elif statement.decorator_list:
                fields = (part for part in body if isinstance(part, ast.AnnAssign))
                yield from ((f.target.id, f.annotation) for f in fields if isinstance(f.target, ast.Name))
            else:
                for base in statement.bases:
                    if isinstance(base, ast.Name):
                        for above in {*code.lead(module, (base.id,), {})} - below - {node}:
                            yield from _parameters(code, above, below | {node})


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr | None]]:
    arguments = function.args
    yield from ((a.arg, a.annotation) for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


def _plain(annotation: ast.expr | None) -> Any:
    """The annotation that an expression writes; None where it names more than plain kinds and lists."""
    match annotation:
        case ast.Constant(value=None):
            return NoneType
        case ast.Name(id=name):
            return _PLAIN.get(name)
        case ast.Subscript(value=ast.Name(id=name)) if name in _LISTS:
            return list[Any]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            sides = _plain(left), _plain(right)
            return None if None in sides else sides[0] | sides[1]
    return None
