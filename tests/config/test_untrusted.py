"""What a folder's config may build is checked: for every group that is built from a config of a trained model."""

import ast
from pathlib import Path

import diffusion_lab.config as package
from diffusion_lab.config.untrusted import PLACES

ROOT = Path(package.__file__).parents[1]
# Built from what the user says only: no folder's config gets there.
OF_THE_USER = {"ema", "lr_scheduler", "schedule"}


def built_groups() -> set[str]:
    """X of every `instantiate(cfg.X)` and `instantiate(cfg.get("X"))` below config/ and commands/, whatever cfg is called."""
    found = set()
    for file in [*(ROOT / "config").glob("*.py"), *(ROOT / "commands").glob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "instantiate" and call.args:
                match call.args[0]:
                    case ast.Attribute(value=ast.Name(), attr=group):
                        found.add(group)
                    case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=group)]):
                        found.add(group)
    return found


def test_every_group_that_is_built_has_a_type_that_is_checked() -> None:
    groups = built_groups()
    assert {"model", "evaluation"} <= groups
    assert groups | {"condition", "data"} <= {*PLACES, *OF_THE_USER}
