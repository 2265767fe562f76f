"""Adds ./conf to Hydra's search path if it has a folder local/: settings of one machine, or of one user."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LocalSearchPath(SearchPathPlugin):
    """Searched after the lab's own configs, so a file of the same name overrides none of them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = Path.cwd() / "conf"
        if (folder / "local").is_dir() and not any(
            str(element.path).removeprefix("file://") == str(folder) for element in search_path.get_path()
        ):
            search_path.append("diffusion-lab-local", f"file://{folder}")
