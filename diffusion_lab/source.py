"""One Python file, from its syntax tree: what it defines, what it imports, which names a piece of it uses."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

Chain = tuple[str, ...]  # a dotted name: ("functional", "relu")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = FUNCTIONS | ast.ClassDef
_IMPORTS = ast.Import | ast.ImportFrom
_FILE_NAME = re.compile(r"[\w-][\w.-]{0,100}\.\w{1,20}")
_LARGE = 2**26  # bytes
_STATEMENTS = ast.stmt | ast.ExceptHandler


class Alias(NamedTuple):
    """What an import binds a name to: a module, or an attribute of one."""

    module: str
    attribute: str | None


@dataclass
class Uses:
    """What code refers to. chains: dotted names; own: attributes of self; attributes: of anything; aliases: its own imports."""

    chains: set[Chain] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    aliases: dict[str, Alias] = field(default_factory=dict)


class Module:
    """One module. definitions: name -> the top-level statements that bind it. effects: the statements that bind nothing.

    path: None for a folder without a file. locations: the folders of a package; None: it is none. A file that is no source (a C
    extension), or no Python, defines and imports nothing that can be seen: `readable` is False.
    """

    def __init__(self, name: str, path: Path | None, locations: list[str] | None) -> None:
        self.name, self.path, self.locations = name, path, locations
        self.content = b"" if path is None else path.read_bytes()
        self.readable = path is None or path.suffix == ".py"
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.aliases: dict[str, list[Alias]] = {}
        self.stars: list[str] = []
        self.effects: list[ast.stmt] = []
        self._package = name if locations is not None else name.rpartition(".")[0]
        self._uses: dict[ast.AST, Uses] = {}
        self._digests: dict[ast.AST, str] = {}
        self._parts: dict[tuple[ast.ClassDef, frozenset[str]], ast.ClassDef] = {}
        try:
            self._tree = ast.parse(self.content if self.readable else b"")
        except (SyntaxError, ValueError):  # Python says it better, when it imports the module
            self._tree, self.readable = ast.parse(b""), False
        self._read(self._tree.body)

    @cached_property
    def imported(self) -> set[str]:
        """What importing this module imports: modules, and names that may be of modules or of something in one."""
        return set(self.stars).union(*(_names(alias) for found in self.aliases.values() for alias in found))

    @cached_property
    def ever_imported(self) -> set[str]:
        """`imported`, and what its functions import when they are called."""
        statements = [node for node in ast.walk(self._tree) if isinstance(node, _IMPORTS)]
        return set().union(*(_names(alias) for node in statements for _, alias in _bindings(node, self._package)))

    @cached_property
    def files_beside(self) -> str:
        """SHA-256 of the files beside this one that it names, such as a table; empty where there are none."""
        strings = {node.value for node in ast.walk(self._tree) if isinstance(node, ast.Constant)}
        named = sorted(name for name in strings if isinstance(name, str) and _FILE_NAME.fullmatch(name))
        files = [self.path.with_name(name) for name in named if self.path is not None]
        content = [f"{file.name} {_content(file)}" for file in files if file.is_file() and file.suffix != ".py"]
        return hashlib.sha256("\n".join(content).encode()).hexdigest() if content else ""

    def uses(self, code: ast.AST) -> Uses:
        """Of a piece of this module."""
        if code not in self._uses:
            reader = _Reader(self._package)
            reader.visit(code)
            self._uses[code] = reader.uses
        return self._uses[code]

    def digest(self, code: ast.AST) -> str:
        """SHA-256 of a piece of this module."""
        if code not in self._digests:
            content = canonical(code).encode() if self.readable else self.content
            self._digests[code] = hashlib.sha256(content).hexdigest()
        return self._digests[code]

    @property
    def whole(self) -> ast.Module:
        """All of it."""
        return self._tree

    def without(self, statement: ast.ClassDef, hidden: frozenset[str]) -> ast.ClassDef:
        """A class of this module without some of its members."""
        if not hidden & members(statement).keys():
            return statement
        if (statement, hidden) not in self._parts:
            gone = {id(part) for name in hidden for part in members(statement).get(name, [])}
            fields = dict(ast.iter_fields(statement))
            fields["body"] = [part for part in statement.body if id(part) not in gone]
            self._parts[statement, hidden] = ast.ClassDef(**fields)
        return self._parts[statement, hidden]

    def _read(self, statements: Iterable[ast.AST], whole: ast.stmt | None = None) -> None:
        """whole: the top-level statement that these are a part of; what they bind depends on all of it."""
        for statement in statements:
            self._read_one(statement, whole or statement)

    def _read_one(self, statement: ast.AST, whole: ast.stmt) -> None:
        if not isinstance(statement, DEFINITIONS):
            self._bind((node.target.id for node in ast.walk(statement) if isinstance(node, ast.NamedExpr)), whole)
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._bind([statement.name], whole)
            case ast.Import() | ast.ImportFrom():
                for name, alias in _bindings(statement, self._package):
                    if name == "*":
                        self.stars.append(alias.module)
                    else:
                        self.aliases.setdefault(name, []).append(alias)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                self._read(statement.orelse, whole)
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()])):  # not when it is imported
                self._read(statement.orelse, whole)
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While() | ast.ExceptHandler():
                self._bind(filter(None, _targets(statement)), whole)
                self._read((part for part in ast.iter_child_nodes(statement) if isinstance(part, _STATEMENTS)), whole)
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Assign() | ast.AnnAssign() if all(_targets(statement)):
                self._bind(_targets(statement), whole)
            case _:
                self._add(self.effects, whole)

    def _bind(self, names: Iterable[str], whole: ast.stmt) -> None:
        for name in names:
            self._add(self.definitions.setdefault(name, []), whole)

    @staticmethod
    def _add(found: list[ast.stmt], statement: ast.stmt) -> None:
        if not any(statement is other for other in found):
            found.append(statement)


class _Reader(ast.NodeVisitor):
    """Collects what a piece of code refers to. Annotations do not run, and what an error says changes no number."""

    def __init__(self, package: str) -> None:
        self.uses, self._package = Uses(), package

    def visit_Name(self, node: ast.Name) -> None:
        self.uses.chains.add((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.uses.attributes.add(node.attr)
        chain, below = [node.attr], node.value
        while isinstance(below, ast.Attribute):
            self.uses.attributes.add(below.attr)
            chain.append(below.attr)
            below = below.value
        if not isinstance(below, ast.Name):
            self.visit(below)
            own = isinstance(below, ast.Call) and isinstance(below.func, ast.Name) and below.func.id == "super"
        else:
            self.uses.chains.add((below.id, *reversed(chain)))
            own = below.id in ("self", "cls")
        if own:
            self.uses.own.add(chain[-1])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        imports = (part for part in node.body if isinstance(part, _IMPORTS))  # each makes an attribute of the class
        self.uses.chains |= {(name,) for part in imports for name, _ in _bindings(part, self._package)}
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.uses.aliases |= {name: alias for name, alias in _bindings(node, self._package) if name != "*"}

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        for part in (node.target, node.value):
            if part is not None:
                self.visit(part)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.visit(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)


def _content(file: Path) -> str:
    """SHA-256 of a file; of a very large one, its size, because reading it at each command would take seconds."""
    size = file.stat().st_size
    return hashlib.sha256(file.read_bytes()).hexdigest() if size <= _LARGE else str(size)


def members(statement: ast.ClassDef) -> dict[str, list[ast.stmt]]:
    """Name -> what defines it, of all that a class defines in its body."""
    found: dict[str, list[ast.stmt]] = {}
    for part in statement.body:
        for name in [part.name] if isinstance(part, DEFINITIONS) else filter(None, _targets(part)):
            found.setdefault(name, []).append(part)
    return found


def canonical(node: Any) -> str:
    """One text for one code: like ast.dump, but without what changes nothing.

    That is empty fields (Python versions add such fields), docstrings, and what a raised error says.
    """
    if isinstance(node, ast.AST):
        parts = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
                value = value[1:] or [ast.Pass()]
            elif name == "exc" and isinstance(node, ast.Raise) and isinstance(value, ast.Call):
                value = value.func
            if value is not None and value != []:
                parts.append(f"{name}={canonical(value)}")
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    return repr(node)


def _targets(statement: ast.AST) -> list[str]:
    """The names that a statement binds; "" for each place in an object that it changes."""
    match statement:
        case ast.Assign():
            targets = [*statement.targets]
        case ast.AnnAssign() | ast.For():
            targets = [statement.target]
        case ast.With():
            targets = [item.optional_vars for item in statement.items if item.optional_vars is not None]
        case _:
            targets = []
    names = []
    while targets:
        target = targets.pop()
        match target:
            case ast.Tuple() | ast.List():
                targets += target.elts
            case ast.Starred():
                targets.append(target.value)
            case _:
                names.append(target.id if isinstance(target, ast.Name) else "")
    return names


def _bindings(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Alias]]:
    """Name -> what an import in a module of `package` binds it to; "*" for all that a module has."""
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            top = alias.name.partition(".")[0]
            yield (alias.asname, Alias(alias.name, None)) if alias.asname else (top, Alias(top, None))
            if not alias.asname and top != alias.name:
                yield f"{top}.", Alias(alias.name, None)  # bound to no name, but imported
        else:
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            module = ".".join([*above, *([statement.module] if statement.module else [])])
            yield alias.asname or alias.name, Alias(module, None if alias.name == "*" else alias.name)


def _names(alias: Alias) -> set[str]:
    """What an import may import: the module, and the module that its attribute may be."""
    return {alias.module, f"{alias.module}.{alias.attribute}"} if alias.attribute else {alias.module}
