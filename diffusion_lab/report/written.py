"""Files of a report in a folder; the next report there replaces these and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain, count, takewhile
from pathlib import Path

from diffusion_lab.store.files import check_links, clear, name_root, remove_staged, write_whole
from diffusion_lab.store.written import is_ours, ours_below

_FIGURES = "figures"


def write_report(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files by their names in `folder`, and remove what an earlier report wrote and this one does not.

    Returns where each went: a file of the user's with its name stays, and the new one gets a name beside it.
    """
    name_root(folder)
    places = {name: next(filter(_is_free, _names(folder / name))) for name in contents}
    for parent in sorted({path.parent for path in places.values()}):
        check_links(parent)
        remove_staged(parent)
    beside = (takewhile(os.path.lexists, _names(folder / name)) for name in contents)
    earlier = {*ours_below(folder / _FIGURES), *filter(is_ours, chain(*beside))}
    for name, path in places.items():
        write_whole(path, contents[name])
    for path in earlier.difference(places.values()):
        clear(path)
    return places


def report_files(folder: Path) -> dict[str, Path]:
    """Our unchanged files in the folder of a report, by their names there."""
    return {path.relative_to(folder).as_posix(): path for path in ours_below(folder)}


def _names(path: Path) -> Iterator[Path]:
    """report.html, report.new.html, report.new2.html, …"""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}.new{number if number > 1 else ''}{path.suffix}")


def _is_free(path: Path) -> bool:
    return not os.path.lexists(path) or is_ours(path)
