"""Files that a test has written by hand, as if the lab had written them."""

from pathlib import Path

from diffusion_lab.store import written


def record(*folders: Path) -> None:
    """Everything in and below these folders but links; what says that a training has finished comes last."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(files, key=lambda path: path.name in ("training.json", "metrics.json")):
        if not path.name.startswith("."):
            with path.open("rb") as file:
                written.append(path, file)
