"""The working directory's own conf/, where it has a folder local/: what is so on one machine, or for one user."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LocalSearchPath(SearchPathPlugin):
    """Behind the lab's own choices: a file of the same name takes nothing's place."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = Path.cwd() / "conf"
        if (folder / "local").is_dir() and not any(
            str(element.path).removeprefix("file://") == str(folder) for element in search_path.get_path()
        ):
            search_path.append("diffusion-lab-local", f"file://{folder}")
