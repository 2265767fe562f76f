"""What an edit retrains and scores anew: whole modules, reached by imports, on small trees of files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.store.fingerprints import SCORING, TRAINING, Code, Scope

MINE = '''"""A schedule."""

import math
from typing import TYPE_CHECKING

import helper

if TYPE_CHECKING:
    import named


class Schedule:
    """ᾱ_t."""

    def alpha_bar(self, t):
        """From t."""
        return math.cos(t + 0.008) ** 2 * helper.scale(t)  # squared
'''
HELPER = "def scale(t):\n    return 2 * t\n"
LAB = {
    "models/diffusion.py": "from diffusion_lab.networks import UNet as Net\nfrom diffusion_lab.diffusion import noise\n"
    "from diffusion_lab.sampling import Sampler\n"
    "from diffusion_lab.training import tracking\n\n\ndef train():\n    from diffusion_lab.networks.late import f\n",
    "networks/__init__.py": "from diffusion_lab.networks.unet import UNet\n\nfrom .mlp import MLP\n",
    "networks/unet.py": "from .blocks import Block\n\n\nclass UNet(Block):\n    pass\n",
    **dict.fromkeys(("networks/blocks.py", "networks/mlp.py", "networks/late.py"), "class Block:\n    pass\n"),
    "diffusion/__init__.py": "",
    "sampling/__init__.py": "from .samplers import Sampler\n",
    **dict.fromkeys(("diffusion/noise.py", "sampling/samplers.py", "training/tracking.py"), "x = 1\n"),
    "metrics/score.py": "from diffusion_lab.metrics.cache import x\n",
    **dict.fromkeys(("metrics/cache.py", "metrics/mine.py"), "x = 1\n"),
}
NAMES = ["diffusion_lab.models.diffusion.Model"]


@pytest.fixture
def digest(tmp_path):
    """digest({"mine.py": "…"}, "mine.Schedule") -> digest of a name in a folder in which these files are written."""

    def write_and_read(files: dict[str, str | bytes], *names: str, scope: Scope = TRAINING) -> str:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return Code([str(tmp_path)]).digest(names, scope)

    return write_and_read


@pytest.mark.parametrize(
    ("file", "content", "changed"),
    [
        ("networks/blocks.py", "class Block:\n    x = 1\n", {TRAINING, SCORING}),
        ("networks/late.py", "f = 1\n", {TRAINING, SCORING}),
        ("diffusion/noise.py", "x = 2\n", {TRAINING, SCORING}),
        ("networks/blocks.py", '"""Blocks."""\n\n\nclass Block:\n    """One."""\n\n    pass  # more\n', set()),
        ("networks/mlp.py", "class MLP:\n    x = 1\n", set()),
        ("networks/__init__.py", LAB["networks/__init__.py"] + "from .new import New\n", set()),
        ("training/tracking.py", "x = 2\n", set()),
        ("sampling/samplers.py", "x = 2\n", {SCORING}),
        ("metrics/cache.py", "x = 2\n", {SCORING}),
        ("metrics/mine.py", "x = 2\n", set()),
    ],
)
def test_an_edit_of_the_lab(digest, file, content, changed):
    tree = {f"diffusion_lab/{name}": text for name, text in LAB.items()}
    before = {scope: digest(tree, *NAMES, scope=scope) for scope in (TRAINING, SCORING)}
    new = {"diffusion_lab/networks/new.py": "class New:\n    pass\n", f"diffusion_lab/{file}": content}
    assert {scope for scope in before if digest(new, *NAMES, scope=scope) != before[scope]} == changed


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("# squared", "# the square", False),
        ("t + 0.008", "(t+0.0080)", False),
        ('"""From t."""', '"""From t alone."""', False),
        ('        """From t."""\n', "", False),
        ('"""A schedule."""\n', "", False),
        ("0.008", "0.009", True),
        ("return math", "return -math", True),
        ("(self, t)", "(self, t=None)", True),
        ("class Schedule:", "class Unused:\n    pass\n\n\nclass Schedule:", True),
    ],
)
def test_an_edit_of_a_users_module(digest, old, new, counts):
    before = digest({"mine.py": MINE, "helper.py": HELPER, "named.py": ""}, "mine.Schedule")
    assert old in MINE
    assert (digest({"mine.py": MINE.replace(old, new)}, "mine.Schedule") != before) == counts
    after = digest({}, "mine.Schedule")
    assert digest({"named.py": "x = 1\n"}, "mine.Schedule") == after  # which is imported for types alone


@pytest.mark.parametrize(
    "use",
    [
        "import helper",
        "from helper import scale",
        "from helper import *",
        "import pack.inner as inner",
        "from pack import inner",
        "from pack.relative import x",
        "import full.sub",
        "from full import nothing",
        "def f():\n    import helper",
        "class A:\n    from helper import scale",
        "try:\n    import helper\nexcept ImportError:\n    helper = None",
        "if True:\n    pass\nelse:\n    import helper",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import helper",
    ],
)
def test_every_import_of_a_users_module_counts(digest, use):
    tree = {"pack/inner.py": "import helper\n", "pack/relative.py": "from . import inner as x\n"}
    tree |= {"pack/__init__.py": "", "full/__init__.py": "from pack.inner import helper\n", "full/sub.py": ""}
    before = digest(tree | {"mine.py": f"{use}\n", "helper.py": HELPER}, "mine.Schedule")
    assert digest({"helper.py": HELPER.replace("2", "3")}, "mine.Schedule") != before


@pytest.mark.parametrize("scope", [TRAINING, SCORING, Scope()])
def test_what_a_users_module_imports_of_the_lab_counts(digest, scope):
    """Also a sampler: a module of the user that trains may train with it."""
    tree = {f"diffusion_lab/{name}": text for name, text in LAB.items()}
    tree["mine.py"] = "from diffusion_lab.sampling import Sampler\n"
    before = digest(tree, "mine.Schedule", scope=scope)
    assert digest({"diffusion_lab/sampling/samplers.py": "x = 2\n"}, "mine.Schedule", scope=scope) != before


@pytest.mark.parametrize("name", ["table.json", "tables/a b.npy"])
def test_a_file_that_a_users_module_names_counts(digest, name):
    read = f"from pathlib import Path\n\nFILE = Path(__file__).parent / {name!r}\n"
    tree = {"mine.py": "import pack.read\n", "pack/read.py": read}
    digests = [digest(tree | files, "mine.Schedule") for files in ({}, {f"pack/{name}": "1"}, {f"pack/{name}": "2"})]
    assert len({*digests}) == 3
    assert digest({"pack/other.json": "3"}, "mine.Schedule") == digests[-1]


def test_a_file_outside_of_the_folder_does_not_count(digest):
    tree = {"pack/read.py": "FILE = 'a/../../x.json'\n", "pack/a/b": "", "x.json": "1"}
    assert digest(tree, "pack.read.x") == digest({"x.json": "2"}, "pack.read.x")


def test_the_last_import_of_a_name_counts(digest):
    tree = {f"diffusion_lab/{name}": text for name, text in LAB.items()}
    tree["diffusion_lab/networks/__init__.py"] = "from .blocks import Net\nfrom .mlp import Net\n"
    tree["mine.py"] = "from diffusion_lab.networks import Net\n"
    before = digest(tree, "mine.Model")
    assert digest({"diffusion_lab/networks/blocks.py": "x = 3\n"}, "mine.Model") == before
    assert digest({"diffusion_lab/networks/mlp.py": "x = 3\n"}, "mine.Model") != before


@pytest.mark.parametrize(
    ("name", "content"), [("mine.abi3.so", b"\x7fELF 1"), ("mine.py", b"class Schedule:\n  x = (\n")]
)
def test_a_module_without_a_syntax_tree_counts_whole(digest, name, content):
    assert digest({name: content}, "mine.Schedule") != digest({name: content + b"2"}, "mine.Schedule")


def test_installed_packages_count_by_name(digest):
    names = ["math.cos", "torch.optim.AdamW", "json.decoder.JSONDecoder", "nowhere.to.be.found"]
    assert len({digest({}, name) for name in names}) == len(names)
    assert Code().reached(names, Scope()) == {}


def test_nothing_runs_and_a_file_is_read_once(digest, tmp_path):
    digest({"mine.py": "import helper\n\nraise SystemExit\n", "helper.py": HELPER})
    code = Code([str(tmp_path)])
    before = code.digest(["mine.Schedule"], TRAINING)
    assert digest({"helper.py": ""}, "mine.Schedule") != before
    assert code.digest(["mine.Schedule"], TRAINING) == before
    assert {module.name: module.content for module in code.modules()}["helper"] == HELPER.encode()


def test_another_process_and_another_python_agree():
    """Every newer Python that is installed here, and this one with another seed of its hashes."""
    root, roots = Path(__file__).parents[2], ["diffusion_lab.models.diffusion", "diffusion_lab.metrics.score"]
    # The package's __init__ imports filelock, which other Pythons may lack.
    folder = str(root / "diffusion_lab" / "store")
    program = f"""
import sys, types
store = sys.modules["diffusion_lab.store"] = types.ModuleType("diffusion_lab.store")
store.__path__ = [{folder!r}]
from diffusion_lab.store.fingerprints import SCORING, Code
print(Code([{str(root)!r}]).digest({roots}, SCORING))
"""
    others = filter(shutil.which, ("python3.12", "python3.13", "python3.14"))
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (sys.executable, *others):
        result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False, env=environment)
        if result.returncode != 127:  # pyenv has a command for each Python, installed or not
            assert result.stdout.strip() == Code([str(root)]).digest(roots, SCORING), (python, result.stderr)
