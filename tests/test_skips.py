"""No test is skipped without anybody noticing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_runtest_makereport


@pytest.mark.parametrize(("marker", "outcome"), [(None, "failed"), (pytest.mark.needs("a browser"), "skipped")])
def test_a_skip_without_a_declared_need_fails(marker, outcome):
    item = SimpleNamespace(get_closest_marker=lambda name: marker)
    report = SimpleNamespace(skipped=True, outcome="skipped", longrepr="there is no browser")
    hook = pytest_runtest_makereport(item)
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(report)
    assert end.value.value.outcome == outcome


def test_ci_runs_the_command_that_tests():
    line = "pip install -e '.[test]' && pytest"
    assert f"    {line}\n" in (Path(__file__).parents[1] / "README.md").read_text()
    assert f'"{line}"' in (Path(__file__).parents[1] / ".ci" / "run").read_text()
