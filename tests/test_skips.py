"""No test is skipped without anybody noticing, and `.ci/hidden` hides the parts that a test may need."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_runtest_makereport

HIDDEN = Path(__file__).parents[1] / ".ci" / "hidden"


@pytest.mark.parametrize(("marker", "outcome"), [(None, "failed"), (pytest.mark.needs("a browser"), "skipped")])
def test_a_skip_without_a_declared_need_fails(marker, outcome):
    item = SimpleNamespace(get_closest_marker=lambda name: marker)
    report = SimpleNamespace(skipped=True, outcome="skipped", longrepr="there is no browser")
    hook = pytest_runtest_makereport(item)
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(report)
    assert end.value.value.outcome == outcome


@pytest.mark.thorough
@pytest.mark.needs("unshare -m")
def test_parts_are_hidden_by_name_and_by_place(tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -m is not permitted")
    for name in ("sbatch", "chromium-headless-shell", "mine"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name).chmod(0o755)
    script = f"""
        for name in sbatch chromium-headless-shell g++; do ! command -v $name || exit 1; done
        ! {tmp_path}/sbatch 2> /dev/null || exit 2
        [ ! -d /usr/share/datasets ] || [ -z "$(ls /usr/share/datasets)" ] || exit 3
        mine
        exit 4
    """
    found = subprocess.run(
        [HIDDEN, "bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (4, "mine\n"), found.stderr
    assert (tmp_path / "sbatch").read_text()


def test_where_nothing_can_be_hidden_nothing_runs(tmp_path):
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    found = subprocess.run(
        [HIDDEN, "echo", "ran"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert "unshare -m is not permitted" in found.stderr
