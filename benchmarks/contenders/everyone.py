"""The contenders by name: ours, and two peers, each with a network of our size and a wider one, as it ships and at its best."""

from __future__ import annotations

from importlib.util import find_spec

from contenders import of_diffusers, of_lucidrains
from contenders.contender import Contender
from contenders.of_ours import Ours
from contenders.peer import BEST, Peer

OURS = "ours"
_LIBRARIES = {
    "diffusers": (of_diffusers.Diffusers, of_diffusers.AS_SHIPPED),
    "ddpm-pytorch": (of_lucidrains.Lucidrains, of_lucidrains.AS_SHIPPED),
}
_PEERS: dict[str, Peer] = {
    f"{library}-{base}-{setting}": peer(base, recipe)
    for library, (peer, as_shipped) in _LIBRARIES.items()
    for base in (16, 32)
    for setting, recipe in (("shipped", as_shipped), ("best", BEST))
}
NAMES = [OURS, *_PEERS]


def contender(name: str, ours: str) -> Contender:
    """ours: the options of our own contender."""
    return Ours(ours) if name == OURS else _PEERS[name]


def missing(names: list[str]) -> list[str]:
    """Packages that these contenders need and that are not installed, as pip calls them."""
    wanted = {contender(name, "").requires for name in names} - {None}
    return sorted(package.replace("_", "-") for package in wanted if find_spec(package) is None)
