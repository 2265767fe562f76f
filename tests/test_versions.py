import platform
import re
from importlib import import_module
from pathlib import Path

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


def test_the_citation_and_the_changelog_name_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    released = headings[1:] if headings[0] == "Unreleased" else headings
    assert released[:1] in ([__version__], [])  # nothing is released before the first
