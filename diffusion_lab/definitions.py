"""Which code a name leads to: definitions and what they use, read from their source. Nothing is imported or run; no torch.

A node is a definition at the top of a module: a function, a class, an assignment. It uses what its names lead to, through imports
and re-exports to the module that defines it; annotations lead nowhere, since they do not run. A class counts whole, because a
call on an object that is not known may be any of its methods. The other statements of a module (a call, `x.y = …`) run when it is
imported, so they count for whatever imports it; so does what a decorator of the user's own may register.

The standard library and installed packages are not followed: only their names count. What a program finds while it runs is not
seen: a module named by a string (importlib), what a base class collects of its subclasses.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from diffusion_lab.source import FUNCTIONS, Alias, Chain, Module, members

LAB = __name__.partition(".")[0]


@dataclass(frozen=True)
class Scope:
    """Which code counts.

    packages: of the lab's own, those that its code is followed into; what it uses of others counts by name only.
    interface: a class. What it declares, and what only that uses, does not count in the classes that fill it in, unless the rest
    calls it. None: classes count whole.
    """

    packages: frozenset[str]
    interface: str | None = None


class Node(NamedTuple):
    """A definition: `name` in `module`. "Class.member": a part of a class; "": the statements of a module that define nothing."""

    module: str
    name: str


class Code:
    """The code that this process sees, each file read once, whatever is edited while it runs.

    path: where modules are searched for; None: where Python finds them.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = path
        self._modules: dict[str, Module | None] = {}
        self._digests: dict[tuple[frozenset[str], Scope], str] = {}

    def digest(self, roots: Iterable[str], view: Scope) -> str:
        """SHA-256 of all that the roots, dotted names, lead to. A root without source counts by its name."""
        key = frozenset(roots), view
        if key not in self._digests:
            lines = [f"{node.module}:{node.name} {digest}" for node, digest in self.reached(key[0], view).items()]
            self._digests[key] = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
        return self._digests[key]

    def reached(self, roots: Iterable[str], view: Scope) -> dict[Node, str]:
        """Definition -> its digest; "" where only its name counts."""
        return _Walk(self, view).run(set(roots))

    def modules(self) -> list[Module]:
        """All that were read."""
        return [module for module in self._modules.values() if module is not None]

    def modules_of_user(self) -> dict[str, Module]:
        """Name -> module, of all outside the lab that a program needs to import what was read."""
        names = {module.name for module in self.modules()}
        found: dict[str, Module] = {}
        while names:
            name = names.pop()
            module = None if is_lab(name) or name in found else self.module(name)
            if module is not None:
                found[name] = module
                names |= {*module.ever_imported, name.rpartition(".")[0]} - {""}
        return found

    def module(self, name: str) -> Module | None:
        """The module called so; None where there is none, or where it is not followed."""
        if name not in self._modules:
            self._modules[name] = self._found(name)
        return self._modules[name]

    def named(self, name: str) -> list[Node]:
        """What an absolute dotted name leads to; nothing where no module that is followed defines it."""
        top, *rest = name.split(".")
        return [] if self.module(top) is None else list(self._into(top, tuple(rest), set()))

    def lead(self, module: Module, chain: Chain, local: dict[str, Alias]) -> Iterator[Node]:
        """What a dotted name in a module leads to. local: the imports of the function that it stands in."""
        return self._lead(module, chain, local, set())

    def _lead(self, module: Module, chain: Chain, local: dict[str, Alias], seen: set) -> Iterator[Node]:
        first, rest = chain[0], chain[1:]
        aliases = [local[first]] if first in local else module.aliases.get(first, [])
        if first in module.definitions:
            yield Node(module.name, first)
        for alias in aliases:
            yield from self._into(alias.module, (*([alias.attribute] if alias.attribute else []), *rest), seen)
        if not aliases and first not in module.definitions:
            for star in module.stars:
                yield from self._into(star, chain, seen)

    def _into(self, name: str, chain: Chain, seen: set) -> Iterator[Node]:
        """What a dotted name below a module leads to."""
        if (name, chain) in seen:
            return
        seen.add((name, chain))
        module = self.module(name)
        if module is None:
            yield Node(name, ".".join(chain))
        elif not module.readable:
            yield Node(name, "")
        elif not chain:  # any attribute of a module object may be used
            yield from (Node(name, defined) for defined in module.definitions)
        elif chain[0] in module.definitions or chain[0] in module.aliases:
            yield from self._lead(module, chain, {}, seen)
        elif self.module(f"{name}.{chain[0]}") is not None:
            yield from self._into(f"{name}.{chain[0]}", chain[1:], seen)
        elif "__getattr__" in module.definitions:
            yield Node(name, "__getattr__")
        else:
            for star in module.stars:
                yield from self._into(star, chain, seen)

    def _found(self, name: str) -> Module | None:
        parent = name.rpartition(".")[0]
        if parent:
            above = self.module(parent)
            spec = PathFinder.find_spec(name, above.locations) if above is not None and above.locations else None
        else:
            spec = self._top(name)
        if spec is None:
            return None
        folders = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        path = Path(spec.origin) if spec.origin and spec.has_location else None
        if not is_lab(name) and any(map(_installed, folders or [path])):
            return None
        return Module(name, path, folders) if path or folders else None

    def _top(self, name: str) -> ModuleSpec | None:
        if self._path is not None:
            return PathFinder.find_spec(name, list(self._path))
        try:
            return importlib.util.find_spec(name)
        except (
            ImportError,
            ValueError,
        ):  # ValueError: of a module that was made without a file, as __main__ in a notebook
            return None


@dataclass
class _Walk:
    """One walk from the roots along everything that they use."""

    code: Code
    view: Scope
    called: set[str] = field(default_factory=set)  # names of the interface that the user's code calls on some object

    def __post_init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        if self.view.interface is not None:
            (node,) = self.code.named(self.view.interface)
            (self.interface,) = self.code.module(node.module).definitions[node.name]
            methods = (part for part in self.interface.body if isinstance(part, FUNCTIONS))
            self.names = frozenset(method.name for method in methods)

    def run(self, roots: set[str]) -> dict[Node, str]:
        while True:
            before = set(self.called)
            digests = self._once(roots)
            if self.called == before:
                return digests

    def _once(self, roots: set[str]) -> dict[Node, str]:
        digests: dict[Node, str] = {}
        running: set[str] = set()
        queue: list[Node] = []
        for root in roots:
            queue += self.code.named(root) or [Node(root, "")]
        while queue:
            node = queue.pop()
            module = self.code.module(node.module)
            if digests.get(node):
                continue
            if module is None:
                digests[node] = ""
                continue
            pieces, more = self._pieces(module, node)
            beside = "" if node.name or is_lab(module.name) else module.files_beside
            if not (pieces or beside):
                continue
            digests[node] = hashlib.sha256("".join([*map(module.digest, pieces), beside]).encode()).hexdigest()
            queue += more
            for piece in pieces:
                uses = module.uses(piece)
                if not is_lab(module.name):
                    self.called |= uses.attributes & self.names
                for target in {
                    target for chain in uses.chains for target in self.code.lead(module, chain, uses.aliases)
                }:
                    digests.setdefault(target, "")
                    if self._follows(module.name, target.module):
                        queue.append(target)
                for alias in uses.aliases.values():
                    queue += self._run_by(alias.module, module.name, running)
            queue += self._run_by(module.name, module.name, running)
        return digests

    def _pieces(self, module: Module, node: Node) -> tuple[list[ast.stmt], list[Node]]:
        """The code of a definition, and the parts of its base classes that it calls."""
        if not node.name:
            return (module.effects if module.readable else [module.whole]), []
        name, _, member = node.name.partition(".")
        pieces: list[ast.stmt] = []
        more: list[Node] = []
        for statement in module.definitions.get(name, []):
            if not isinstance(statement, ast.ClassDef):
                pieces.append(statement)
            elif member:
                pieces += members(statement).get(member, [])
            else:
                hidden, called = self._hidden(module, statement)
                pieces.append(module.without(statement, hidden))
                more += called
        return pieces, more

    def _hidden(self, module: Module, statement: ast.ClassDef) -> tuple[frozenset[str], list[Node]]:
        """The members that do not count in a class that fills in the interface, and those of its bases that it calls nevertheless.

        The interface is what scoring and drawing use of a model: its names are hidden, and private names that only they use.
        """
        family = [(module, statement), *self._bases(module, statement)]
        if not self.names or all(cls is not self.interface for _, cls in family):
            return frozenset(), []
        own: dict[str, set[str]] = {}  # member -> what it calls on self
        for where, cls in family:
            for name, parts in members(cls).items():
                own.setdefault(name, set()).update(*(where.uses(part).own for part in parts))
        asked = own.keys() & self.names
        private = {name for name in _closure(asked, own) if name.startswith("_") and not name.startswith("__")}
        called = _closure((own.keys() - asked - private) | self.called, own)
        hidden = frozenset(asked | private) - called
        more = [
            Node(where.name, f"{cls.name}.{name}")
            for where, cls in family[1:]
            for name in members(cls).keys() & (asked | private) & called
        ]
        return hidden, more

    def _bases(self, module: Module, statement: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
        """All classes above one, as far as their source is followed."""
        queue, seen = [(module, statement)], {statement}
        while queue:
            where, below = queue.pop()
            chains = {chain for base in below.bases for chain in where.uses(base).chains}
            for node in {node for chain in chains for node in self.code.lead(where, chain, {})}:
                above = self.code.module(node.module)
                for found in above.definitions.get(node.name, []) if above is not None else []:
                    if isinstance(found, ast.ClassDef) and found not in seen:
                        seen.add(found)
                        queue.append((above, found))
                        yield above, found

    def _run_by(self, start: str, source: str, running: set[str]) -> list[Node]:
        """The statements that importing a module runs, in it and in all that it imports, packages included."""
        found: list[Node] = []
        names = [start]
        while names:
            name = names.pop()
            if name in running or not self._follows(source, name):
                continue
            running.add(name)
            module = self.code.module(name)
            if module is None:
                continue
            found.append(Node(name, ""))
            if not is_lab(name):
                found += [Node(name, defined) for defined in self._registered(module)]
            names += [*module.imported, name.rpartition(".")[0]]
        return found

    def _registered(self, module: Module) -> Iterator[str]:
        """Names of definitions that a decorator of the user's own may hand on."""
        for name, statements in module.definitions.items():
            for statement in statements:
                for decorator in getattr(statement, "decorator_list", []):
                    targets = [n for chain in module.uses(decorator).chains for n in self.code.lead(module, chain, {})]
                    if any(self.code.module(target.module) for target in targets):
                        yield name

    def _follows(self, source: str, target: str) -> bool:
        """Whether the code of one module is followed into another."""
        if not is_lab(target) or not is_lab(source) or source == target:
            return True
        parts = target.split(".")
        return len(parts) == 1 or parts[1] in self.view.packages


def is_lab(name: str) -> bool:
    return name.partition(".")[0] == LAB


def _closure(start: Iterable[str], own: dict[str, set[str]]) -> set[str]:
    """The members that are reached from some by calls on self."""
    found: set[str] = set()
    queue = list(start)
    while queue:
        name = queue.pop()
        if name in own and name not in found:
            found.add(name)
            queue += own[name]
    return found


_PATHS = sysconfig.get_paths()
_INSTALLED = tuple(Path(_PATHS[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def _installed(path: str | Path | None) -> bool:
    """Whether a file or a folder belongs to Python or to an installed package."""
    if path is None:
        return True
    parts = Path(path).parts
    return "site-packages" in parts or "dist-packages" in parts or any(Path(path).is_relative_to(d) for d in _INSTALLED)
