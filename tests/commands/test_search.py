"""The last line of a search."""

import pytest
from omegaconf import OmegaConf

from diffusion_lab.commands.search import BestTrial


@pytest.mark.parametrize(
    ("found", "metrics", "said"),
    [
        ({"best_params": {"a.b": 3}, "best_value": 0.25}, "fid", ["a.b=3  → fid 0.25"]),
        (
            {"solutions": [{"params": {"a": 1}, "values": [2.0, 3.0]}, {"params": {"a": 2}, "values": [1.0, 1.0]}]},
            ["fid", "recall"],
            ["a=1  → fid 2  recall 3", "a=2  → fid 1  recall 1"],
        ),
    ],
)
def test_a_search_ends_with_its_best_trials(tmp_path, capsys, found, metrics, said):
    cfg = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}, "objective_metric": metrics})
    BestTrial().on_multirun_end(cfg)
    assert capsys.readouterr().out == ""  # another sweeper writes no such file
    OmegaConf.save(OmegaConf.create(found), tmp_path / "optimization_results.yaml")
    BestTrial().on_multirun_end(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  (")[0] for line in lines] == [f"best trial: {one}" for one in said]
