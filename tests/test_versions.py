import platform
import re
from importlib import import_module
from pathlib import Path

import yaml

from diffusion_lab import __version__
from diffusion_lab.versions import PACKAGES, versions

ROOT = Path(__file__).parent.parent


def test_the_versions_are_those_of_what_is_imported():
    """The distribution's version, which needs no import, is what the package says of itself."""
    told = versions()
    assert told["python"] == platform.python_version()
    for name in PACKAGES:
        module = import_module({"hydra-core": "hydra"}.get(name, name.replace("-", "_")))
        assert told[name].split("+")[0] == str(module.__version__).split("+")[0], name


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("diffusion_lab.versions.PACKAGES", ("no-such-package",))
    assert versions()["no-such-package"] == "not installed"


def test_citation_and_changelog_name_this_version():
    """Those of the next release or, where the version ends in .dev0, of the last one."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    if ".dev" in __version__:
        assert headings.pop(0) == "Unreleased"
    else:
        assert cited["version"] == __version__
    assert headings[0] == cited["version"]
