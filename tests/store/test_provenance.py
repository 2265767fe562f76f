"""The code that made a run, recorded and compared."""

from diffusion_lab.store import provenance
from diffusion_lab.store.provenance import TRAINING, both, code_now, made_by


def test_packages_that_a_record_lacks_are_not_compared():
    """Version 0.2 recorded no code of config/."""
    now = code_now()
    lacks = {file: digest for file, digest in now.items() if not file.startswith("config/")}
    assert made_by({"code": lacks}, TRAINING) is None
    assert made_by({"code": both(lacks, now)}, TRAINING) is None
    assert made_by({"code": now | {"config/build.py": "0"}}, TRAINING) == "other code (config/build.py)"
    assert {"report/page.py", "config/build.py", "versions.py"} <= now.keys()


def test_other_code_is_named_by_its_files(tmp_path, monkeypatch):
    for file in ("models/a.py", "diffusion/b.py", "commands/c.py"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setattr(provenance, "_code", provenance._code.__wrapped__)  # not once for the process
    record = {"code": code_now()}
    (tmp_path / "commands" / "c.py").write_text("x = 2\n")
    assert made_by(record, TRAINING) is None, "this room trains nothing"
    (tmp_path / "models" / "a.py").write_text("x = 2\n")
    assert made_by(record, TRAINING) == "other code (models/a.py)"
    (tmp_path / "diffusion" / "b.py").rename(tmp_path / "diffusion" / "d.py")
    assert made_by(record, TRAINING) == "other code (diffusion/b.py, diffusion/d.py, models/a.py)"
    begun_before = {"code": both(record["code"], code_now())}
    assert made_by(begun_before, TRAINING) == "other code (diffusion/b.py, diffusion/d.py, models/a.py)"
    of_0_1 = {"code": {"names": [], "digest": "…"}, "versions": {"diffusion_lab": "0.1.0"}}
    assert "0.1.0" in made_by(of_0_1, TRAINING)
    assert "0.1.0" in made_by(of_0_1 | {"code": both(of_0_1["code"], code_now())}, TRAINING)
