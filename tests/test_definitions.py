"""What a name leads to: a change there never goes unnoticed, and a change elsewhere changes nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.definitions import Code, Node, Scope
from diffusion_lab.fingerprints import scoring_code

VIEW = Scope(frozenset())
MODULE = '''"""What it is."""

import math

import helper


class Schedule:
    """ᾱ_t."""

    def alpha_bar(self, t):
        """From t."""
        # the square
        return math.cos(t + 0.008) ** 2 * helper.scale(t)

    def nothing(self):
        """Only a docstring."""

    def refuse(self):
        raise ValueError(f"no {self}")


class Other:
    x = 1
'''
HELPER = "def scale(t):\n    return FACTOR * t\n\n\ndef unused():\n    return 0\n\n\nFACTOR = 1\n"


@pytest.fixture
def code(tmp_path):
    """code(mine="…", helper="…", root="mine.Schedule") -> digest of the root with these sources in a folder."""

    def digest(root: str = "mine.Schedule", view: Scope = VIEW, **sources: str) -> str:
        for name, source in ({"mine": MODULE, "helper": HELPER} | sources).items():
            file = tmp_path / (name.replace("__", "/").replace("INIT", "__init__") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        return Code([str(tmp_path)]).digest([root], view)

    digest.folder = tmp_path
    return digest


def edited(old: str, new: str, source: str = MODULE) -> str:
    assert old in source
    return source.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# the square", "# squared"),
        ("        # the square\n", ""),
        ('"""ᾱ_t."""', '"""The product of α up to t."""'),
        ('        """From t."""\n', ""),
        ('"""What it is."""\n\n', ""),
        ("import math\n", "import math\n\n\n\n"),
        ("math.cos(t + 0.008) ** 2", "(\n            math.cos(t+0.0080)**2\n        )"),
        ('"""Only a docstring."""', "pass"),
        ('f"no {self}"', '"a better sentence"'),
        ("x = 1", "x = 2"),
        ("class Other:\n    x = 1\n", ""),
        ("import math\n", "import math\nimport json\n"),
    ],
)
def test_what_changes_nothing(code, old, new):
    assert code(mine=edited(old, new)) == code()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.008", "0.009"),
        ("** 2", "* 2"),
        ("cos", "sin"),
        ("t + 0.008", "0.008 + t"),
        ("alpha_bar", "alpha"),
        ("(self, t)", "(self, t=1)"),
        ('"""Only a docstring."""', "return None"),
        ('"""Only a docstring."""', "return"),
        ("return math", "x = 'a string'; return math"),
        ("ValueError", "TypeError"),
        ("import math\n", "import cmath as math\n"),
        ("helper.scale", "helper.unused"),
        ("class Schedule:", "@helper.scale\nclass Schedule:"),
        ("class Schedule:", "class Schedule(Other):"),
        ("import helper\n", "import helper\n\nhelper.FACTOR = 3\n"),
        ("import helper\n", "import helper\n\nprint(1)\n"),
    ],
)
def test_any_change_of_what_runs_changes_the_digest(code, old, new):
    assert code(mine=edited(old, new)) != code()


def test_none_and_nothing_differ(code):
    bodies = [
        "return None",
        "return",
        "return []",
        "return [None]",
        "return ''",
        "return 0",
        "return False",
        "return 0.0",
    ]
    digests = {code(mine=edited('"""Only a docstring."""', body)) for body in bodies}
    assert len(digests) == len(bodies)


def test_a_helper_counts_by_what_is_used_of_it(code):
    before = code()
    assert code(helper=edited("return 0", "return 1", HELPER)) == before
    assert code(helper=edited("* t", "+ t", HELPER)) != before
    assert code(helper=edited("FACTOR = 1", "FACTOR = 2", HELPER)) != before, "a constant that a function uses"
    assert code(helper=HELPER + "\nscale.cache = {}\n") != before, "a statement that runs when it is imported"
    assert code(helper=HELPER + "\n\ndef more():\n    return 2\n") == before


@pytest.mark.parametrize(
    "use",
    [
        "from helper import scale",
        "from helper import *",
        "import helper\nscale = helper.scale",
        "import helper\nscale = getattr(helper, 'sca' + 'le')",
        "try:\n    from helper import scale\nexcept ImportError:\n    scale = None",
        "from pack import scale",
        "import pack.inner\nscale = pack.inner.scale",
        "def scale(t):\n    from pack.inner import scale as inner\n    return inner(t)",
        "def scale(t):\n    import pack.inner\n    return pack.inner.scale(t)",
        "if True:\n    from helper import scale\nelse:\n    scale = None",
        "if __name__ != '__main__':\n    from helper import scale",
        "import helper\nother = (scale := helper.scale)",
        "import helper\nif scale := helper.scale:\n    pass",
        "class Scale:\n    from helper import scale\n\n\nscale = Scale.scale",
    ],
)
def test_every_way_to_a_helper_is_followed(code, use):
    sources = {"mine": f"{use}\n\n\ndef f(t):\n    return scale(t)\n"}
    sources |= {"pack__INIT": "from .inner import scale\n", "pack__inner": "from helper import scale\n"}
    before = code("mine.f", **sources)
    assert code("mine.f", **sources, helper=edited("FACTOR = 1", "FACTOR = 2", HELPER)) != before
    assert code("mine.f", **sources, helper=edited("return 0", "return 1", HELPER)) == before or "getattr" in use


def test_a_package_init_does_not_count_but_what_it_hands_on_does(code):
    sources = {
        "pack__INIT": "from .a import A\nfrom .b import B\n",
        "pack__a": "class A: x = 1\n",
        "pack__b": "class B: x = 1\n",
    }
    before = code("pack.A", **sources)
    assert code("pack.a.A", **sources) == before
    assert code("pack.A", **(sources | {"pack__b": "class B: x = 2\n"})) == before
    more = {"pack__INIT": sources["pack__INIT"] + "from .c import C\n", "pack__c": "class C: x = 1\n"}
    assert code("pack.A", **(sources | more)) == before
    assert code("pack.A", **(sources | {"pack__a": "class A: x = 2\n"})) != before


def test_what_a_decorator_of_ones_own_may_register_counts(code):
    registry = "KNOWN = {}\n\n\ndef register(thing):\n    KNOWN[thing.__name__] = thing\n    return thing\n"
    nets = "from registry import register\n\n\n@register\nclass Net:\n    x = 1\n"
    sources = {"mine": "import nets\nfrom registry import KNOWN\n\n\ndef f():\n    return KNOWN['Net']\n"}
    before = code("mine.f", **sources, registry=registry, nets=nets)
    assert code("mine.f", **sources, registry=registry, nets=nets.replace("x = 1", "x = 2")) != before


def test_annotations_lead_nowhere(code):
    used = "from helper import unused\n\n\ndef f(x: unused) -> unused:\n    y: unused = 1\n    return x\n"
    before = code("mine.f", mine=used)
    assert code("mine.f", mine=used, helper=edited("return 0", "return 1", HELPER)) == before


def test_installed_packages_and_what_is_missing_count_by_name(code):
    names = ["math.cos", "torch.optim.AdamW", "json.decoder.JSONDecoder", "nowhere.to.be.found"]
    assert len({code(name) for name in names}) == len(names)
    assert Code().module("torch") is None
    assert Code().module("json") is None


def test_a_module_without_source_counts_whole(code):
    (code.folder / "fast.abi3.so").write_bytes(b"one")
    before = code("fast.f")
    (code.folder / "fast.abi3.so").write_bytes(b"two")
    assert code("fast.f") != before


def test_a_module_that_is_no_python_counts_whole_and_is_left_to_python(code):
    before = code("mine.Schedule", mine="class Schedule:\n")
    assert code("mine.Schedule", mine="class Schedule;\n") != before


def test_a_class_may_take_the_name_of_its_base_and_modules_may_import_each_other(code):
    sources = {"mine": "from other import Schedule\n\n\nclass Schedule(Schedule):\n    x = 1\n"}
    sources |= {"other": "import mine\n\n\nclass Schedule:\n    y = 1\n"}
    view = Scope(frozenset(), "other.Schedule")
    before = code("mine.Schedule", view, **sources)
    assert code("mine.Schedule", view, **(sources | {"other": sources["other"].replace("y = 1", "y = 2")})) != before


def test_nothing_runs(code):
    assert code("bomb.f", bomb="raise SystemExit\n\n\ndef f():\n    pass\n")


INTERFACE = """\
class Base:
    def sample(self): return self._shown()
    def likelihood(self): return None
    def _shown(self): return 0
"""
MODEL = """\
from base import Base


class Model(Base):
    def train(self): return self._step()
    def _step(self): return 1
    def sample(self): return self._draw() + self._step()
    def _draw(self): return 2
    def likelihood(self): return 3
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("return 1", "return 10", True),
        ("return self._step()\n", "return -self._step()\n", True),
        ("return 2", "return 20", False),
        ("return 3", "return 30", False),
        ("return self._draw()", "return -self._draw()", False),
    ],
)
def test_an_interface_counts_only_where_the_rest_calls_it(code, old, new, counts):
    view = Scope(frozenset(), "base.Base")
    before = code("mine.Model", view, mine=MODEL, base=INTERFACE)
    assert (code("mine.Model", view, mine=edited(old, new, MODEL), base=INTERFACE) != before) == counts
    assert code("mine.Model", mine=edited(old, new, MODEL), base=INTERFACE) != code(
        "mine.Model", mine=MODEL, base=INTERFACE
    )
    calls = edited("return 1", "return self.sample()", MODEL)
    before = code("mine.Model", view, mine=calls, base=INTERFACE)
    assert "return 2" in calls
    assert code("mine.Model", view, mine=edited("return 2", "return 20", calls), base=INTERFACE) != before
    user = "from mine import Model\n\n\ndef watch(model):\n    model.sample()\n\n\nparts = [Model, watch]\n"
    before = code("user.parts", view, mine=MODEL, base=INTERFACE, user=user)
    changed = code("user.parts", view, mine=edited("return 2", "return 20", MODEL), base=INTERFACE, user=user)
    assert changed != before, "the user's own code calls it on some object"


def test_an_inherited_part_of_the_interface_counts_where_training_calls_it(code):
    view = Scope(frozenset(), "base.Base")
    model = "from base import Base\n\n\nclass Model(Base):\n    def train(self): return self.sample()\n"
    before = code("mine.Model", view, mine=model, base=INTERFACE)
    assert code("mine.Model", view, mine=model, base=edited("return 0", "return 1", INTERFACE)) != before
    assert code("mine.Model", view, mine=model, base=edited("return None", "return 1", INTERFACE)) == before


def test_modules_of_the_user_are_all_that_an_import_needs(code):
    code(
        "mine.Schedule",
        helper="import pack.b\n\n\ndef scale(t):\n    import late\n",
        late="",
        pack__INIT="",
        pack__b="",
        alone="",
    )
    known = Code([str(code.folder)])
    known.named("mine.Schedule")
    assert sorted(known.modules_of_user()) == ["helper", "late", "mine", "pack", "pack.b"]


def test_a_file_is_read_once(code):
    code()
    known = Code([str(code.folder)])
    before = known.digest(["mine.Schedule"], VIEW)
    (code.folder / "helper.py").write_text("")
    assert known.digest(["mine.Schedule"], VIEW) == before
    assert Node("helper", "scale") in known.reached(["mine.Schedule"], VIEW)


def test_neither_another_process_nor_another_python_changes_the_digest():
    """Every newer Python that is installed here, and this one with another seed of its hashes."""
    root = Path(__file__).parent.parent
    program = f"import sys; sys.path.insert(0, {str(root)!r}); sys.dont_write_bytecode = True\n"
    program += "from diffusion_lab.definitions import Code; from diffusion_lab.fingerprints import scoring_code\n"
    program += f"print(scoring_code(Code([{str(root)!r}]), {{}}))"
    others = [python for python in ("python3.12", "python3.13", "python3.14") if runs(python)]
    for python in (sys.executable, *others):
        result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == scoring_code(Code([str(root)]), {}), python


def runs(python: str) -> bool:
    return (
        bool(shutil.which(python))
        and not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode
    )


@pytest.mark.parametrize("name", ["table.json", "table.npy"])
def test_a_file_beside_a_module_of_the_user_counts(code, name):
    reading = (
        f"from pathlib import Path\n\n\ndef scale(t):\n    return Path(__file__).with_name({name!r}).read_bytes()\n"
    )
    digests = [code(helper=reading)]
    for content in ("[1]", "[2]"):
        (code.folder / name).write_text(content)
        digests.append(code(helper=reading))
    (code.folder / "other.json").write_text("[3]")
    assert code(helper=reading) == digests[-1]
    assert len({*digests}) == 3
