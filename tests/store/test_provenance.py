"""The code that made a run, recorded and compared."""

from diffusion_lab.store import provenance
from diffusion_lab.store.provenance import TRAINING, both, code_now, made_by


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
    assert "0.1.0" in made_by(
        {"code": {"names": [], "digest": "…"}, "versions": {"diffusion_lab": "0.1.0"}}, code_now()
    )
