"""What a report wrote, so that the next one in the same folder replaces that and nothing else.

`.report.json` beside it holds the digest of each file. What is not in it, or is not as it says, is the user's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from diffusion_lab.files import write_whole
from diffusion_lab.runs import RunError, read_json, write_json

_RECORD = ".report.json"
_SUFFIXES = (".html", ".csv", ".md", ".tex", ".png", ".pdf")  # of what a report writes


def write_report(folder: Path, contents: Mapping[str, bytes], page: str) -> list[Path]:
    """Write files by their names in `folder`, and remove what an earlier report wrote and this one does not.

    page: the file without which there is no report. Returns the user's files that have a name of ours: they stay as they are.
    """
    earlier = _read(folder)
    if earlier is None:  # reports had no record once: where there was one, it wrote what has our names
        was_there = (folder / page).is_file()
        earlier = {name: [_digest(folder / name)] for name in contents if was_there and (folder / name).is_file()}
    users = [name for name in contents if _is_users(folder / name, earlier.get(name, ()))]
    ours = {name: content for name, content in contents.items() if name not in users}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in ours.items()}
    # Before the files, and with both digests: after a crash both the old files and the new ones must be known.
    _write(folder, {**earlier, **{name: [*earlier.get(name, ()), digest] for name, digest in digests.items()}})
    for name, content in ours.items():
        write_whole(folder / name, content)
    for name in earlier.keys() - contents.keys():
        path = folder / name
        linked = any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents)
        if path.is_file() and not linked and not _is_users(path, earlier[name]):
            path.unlink()
    _write(folder, {name: [digest] for name, digest in digests.items()})
    return [folder / name for name in users]


def written_files(folder: Path) -> dict[str, Path]:
    """The files of the report in this folder, and its record, by their names there."""
    return {name: folder / name for name in (*(_read(folder) or ()), _RECORD) if (folder / name).is_file()}


def _is_users(path: Path, digests: Sequence[str]) -> bool:
    if path.is_symlink():
        return True
    return path.exists() and (not path.is_file() or _digest(path) not in digests)


def _read(folder: Path) -> dict[str, list[str]] | None:
    """Name -> digests that its file may have; None if no report kept a record here, or it is broken."""
    try:
        files = read_json(folder / _RECORD).get("files")
    except RunError:
        return None
    if not isinstance(files, dict):
        return None
    # It may be a stranger's: nothing that it says leads out of the folder.
    return {name: digests for name, digests in files.items() if _is_a_name(name) and isinstance(digests, list)}


def _is_a_name(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.suffix in _SUFFIXES


def _write(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    write_json(folder / _RECORD, {"files": files})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
