"""scripts/mutations: which tests judge a module, what a limit ends, and the table."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "mutations"


@pytest.fixture(scope="module")
def mutations():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("mutations", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutations", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mutations", module)  # where a dataclass looks its annotations up
        loader.exec_module(module)
        yield module


def test_the_tests_that_import_a_module_are_near_first(mutations, tmp_path):
    for name, content in {
        "diffusion_lab/room/__init__.py": "from .defined import Defined\n",
        "diffusion_lab/room/defined.py": "",
        "diffusion_lab/user.py": "from diffusion_lab.room import Defined\n",
        "tests/room/test_defined.py": "",
        "tests/room/test_other.py": "",
        "tests/test_far.py": "def late():\n    from diffusion_lab import user\n",
        "tests/test_near.py": "from diffusion_lab.room import Defined\n",
        "tests/test_none.py": "import json\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = mutations.tests_of(tmp_path, tmp_path / "diffusion_lab" / "room" / "defined.py")
    assert [path.stem for path in found] == ["test_defined", "test_near", "test_far", "test_other"]


def test_a_limit_ends_a_command_and_not_the_run(mutations, tmp_path):
    assert mutations._run(["sleep", "60"], tmp_path, 0.5) == (None, [])
    assert mutations._run([sys.executable, "-c", "exit(3)"], tmp_path, 60) == (3, [])


def test_the_table_is_made_of_results_alone(mutations):
    mutation = {"file": "diffusion_lab/a.py", "line": 3, "old": "x | y", "new": "x", "begin": 0, "end": 5}
    result = {"mutation": mutation, "kind": "golden", "caught": True, "said": "edm: 1 → 2", "cases": 2, "seconds": 1}
    assert list(mutations.table([result]))[-1] == "| `a.py:3` `x \\| y` → `x` | edm | not judged |"
