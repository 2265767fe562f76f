"""diffusion-lab dashboard, up to what would be sent: its panels name what our runs really log."""

import json
from types import SimpleNamespace

import pytest

from diffusion_lab.commands import dashboard

from ..report.synthetic import write_sweep
from .conftest import STRIDED, TINY
from .test_tracking import WANDB, runs


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No account, and none of this machine's."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def sent(monkeypatch):
    """Views as W&B would be sent them; the account is us."""
    views = []

    def take(view):
        views.append(view)
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "1"}}}

    us = SimpleNamespace(default_entity="us", client=SimpleNamespace(app_url="https://wandb.test"))
    monkeypatch.setattr("wandb.Api", lambda *_, **__: us)
    monkeypatch.setattr("wandb_workspaces.workspaces.internal.upsert_view2", take)
    return views


@pytest.mark.thorough
def test_every_panel_names_what_our_runs_really_log(lab, sent):
    assert lab("train", *TINY, *STRIDED, *WANDB)[0] == 0
    assert "dashboard  https://wandb.test/us/diffusion-lab?nw=abc" in lab.done("dashboard")
    (view,) = sent
    assert (view.entity, view.project, view.display_name) == ("us", "diffusion-lab", "diffusion_lab")

    (training,), (score,) = runs(lab.folder, "models"), runs(lab.folder, "runs")
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]
    shown = {s["name"]: [p["config"] for p in s["panels"]] for s in spec["panelBankConfig"]["sections"]}
    of_scores = [*shown["Samples against steps"], *shown["Likelihood against steps"]]
    for run, configs in ((training, shown["Training"]), (score, of_scores)):
        for config in configs:
            assert {config["xAxis"], *config["metrics"]} <= set(run["summary"])
    assert {config["groupBy"] for config in of_scores} == {"series.value"}
    assert score["config"]["series"] == "learned · dpm_solver_sde"
    (scatter,) = shown["Distance against time"]
    assert {scatter["xAxis"], scatter["yAxis"]} <= {f"summary:{name}" for name in score["summary"]}
    ((pictures,), (bound,)) = shown["Samples"], shown["The bound by t"]
    for run in (training, score):
        assert set(pictures["mediaKeys"]) <= set(run["summary"])
    chart = score["charts"]["L_t"]
    assert bound["panelDefId"] == chart["panelDefId"]
    assert bound["fieldSettings"].items() <= chart["fieldSettings"].items()
    assert table_key(bound) == table_key(chart) == "L_t_table"


def table_key(config):
    (query,) = config["userQuery"]["queryFields"]
    (field,) = [field for field in query["fields"] if field["name"] == "summaryTable"]
    return field["args"][0]["value"]


def test_it_goes_where_the_runs_go(lab, sent):
    write_sweep(lab.folder / "outputs", axes={"sampler": ["strided", "ddim"]})
    assert lab("dashboard", "logger.wandb.project=theirs", "logger.wandb.entity=them")[0] == 0
    assert lab("dashboard", "project=mine", "entity=me", "name=ours")[0] == 0
    assert [(v.entity, v.project, v.display_name) for v in sent] == [
        ("them", "theirs", "diffusion_lab"),
        ("me", "mine", "ours"),
    ]


def test_mistakes_are_one_sentence(lab, monkeypatch):
    lab.refused("dashboard", said="train with logger=wandb first")
    write_sweep(lab.folder / "outputs", axes={"sampler": ["strided", "ddim"]})
    lab.refused("dashboard", said="run `wandb login`")

    def refused(*_, **__):
        raise ConnectionError("503,\ncome back")

    with monkeypatch.context() as patch:
        patch.setattr("wandb.Api", refused)
        lab.refused("dashboard", said="W&B did not accept the dashboard: 503, come back")
    monkeypatch.setattr(dashboard, "is_installed", lambda _: False)
    lab.refused("dashboard", said="pip install 'diffusion-lab[dashboard]'")
