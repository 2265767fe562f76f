"""The report of a sweep that stops when pairs are decided: what its page says and draws is by the rule alone."""

import json
from dataclasses import replace

import pytest

from diffusion_lab.report import figures
from diffusion_lab.report.conclusions import conclusions
from diffusion_lab.report.decisions import decision_plots, first_new
from diffusion_lab.report.exports import markdown
from diffusion_lab.report.figures import figure
from diffusion_lab.report.findings import comparisons
from diffusion_lab.report.make import make_report
from diffusion_lab.report.plots import effects, plots_of
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table
from diffusion_lab.sweeps.decide import Outcome

from .synthetic import decide, write_sweep

SEEDS = [str(seed) for seed in range(1, 11)]
AXES = {"schedule": ["linear", "cosine"], "variance": ["fixed_small", "fixed_large", "learned"], "seed": SEEDS}
WORSE = {"linear": 1.0, "fixed_small": 2.0}


def change(choices, metrics):
    """linear and fixed_small are worse; fixed_large and learned differ by ±0.1, in turn from seed to seed."""
    seed = int(choices["seed"])
    noise = (
        0.05 * (-1) ** seed * {"fixed_small": 0.5, "fixed_large": 1, "learned": -1}[choices.get("variance", "learned")]
    )
    noise += 0.02 * (seed % 3) * (choices["schedule"] == "linear")
    worse = sum(WORSE.get(choice, 0.0) for choice in choices.values())
    metrics["values"]["fd_digits_cnn"] = 5.0 + seed + worse + noise


def decided(outputs, axes=AXES, **question):
    return decide(write_sweep(outputs, axes=axes, change=change), **question)


def read(sweep):
    gathered = read_sweep(sweep)
    table = build_table(gathered)
    return table, table.groups[0], conclusions(table, table.groups[0])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Of its four pairs three are decided after three seeds, and one after none of ten."""
    return decided(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def path(sweep):
    return make_report(sweep)


def test_each_pair_is_a_sentence_that_names_the_better(sweep):
    table, _, known = read(sweep)
    assert [one.outcome for one in table.decision.pairs] == [*[Outcome.WORSE] * 3, Outcome.UNDECIDED]
    assert [said.what for said in known.findings] == ["schedule", *["variance"] * 3]
    assert [said.sure for said in known.findings] == [True, True, True, False]
    for said, one in zip(known.findings, table.decision.pairs, strict=True):
        assert f"after {one.looks[-1].n} seeds" in said.text
        better, worse = one.pair.second, one.pair.first
        assert (f"{better} is better than {worse} by {abs(one.looks[-1].mean):.2f}"[:-1] in said.text) == said.sure
    assert "schedule cosine" in known.next
    assert "of variance fixed_large and learned" in known.next
    assert f"seed={first_new(SEEDS)}" in known.next


def test_nothing_else_is_tested(sweep, tmp_path):
    """The same scores without `decide` have verdicts and marks."""
    table, group, known = read(sweep)
    assert (known.undecided, comparisons(table, group), group.marked) == ([], [], set())
    assert "**" not in markdown(table)
    assert "±" in markdown(table)
    assert not any(line.error for plot in effects(table, group) for panel in plot.panels for line in panel.series)
    ordinary = build_table(replace(read_sweep(sweep), decision=None))
    assert comparisons(ordinary, ordinary.groups[0])
    assert "**" in markdown(ordinary)
    assert decision_plots(ordinary) == []
    assert len([*plots_of(table, group)]) == len([*plots_of(ordinary, ordinary.groups[0])])


def test_the_trainings_saved_are_counted_by_models(sweep):
    """The fixed variances share a model: four trainings a seed."""
    cells = sweep.read_sweep()["cells"]
    models = len({cell["model"] for cell in cells})
    assert len({cell["model"] for cell in cells if cell["choices"]["seed"] == "1"}) == 4
    *_, known = read(sweep)
    assert f"{models} trainings, where 10 seeds of every choice take 40" in known.note
    assert models == 40, "both variances that are left need all of them"


def test_choices_that_lost_save_trainings(tmp_path):
    table, _, known = read(decided(tmp_path, AXES | {"variance": ["learned"]}))
    assert table.decision.rounds == 3
    assert "6 trainings, where 10 seeds of every choice take 20: 14 saved" in known.note
    assert {len(row.seeds) for row in table.rows} == {3}


def test_a_panel_a_pair_has_intervals_that_narrow(sweep):
    table, *_ = read(sweep)
    (plot,) = decision_plots(table)
    assert [len(panel.series[0].x) for panel in plot.panels] == [1, 1, 1, 8]
    *_, last = plot.panels
    assert last.series[0].error == sorted(last.series[0].error, reverse=True)
    for panel, one in zip(plot.panels, table.decision.pairs, strict=True):
        assert panel.series[0].error[-1] == one.looks[-1].margin
        assert ("", 0.0) in panel.levels
        low, high = panel.ends
        assert low <= min(0.0, *panel.series[0].y)
        assert high >= max(0.0, *panel.series[0].y)
        assert panel.categories[int(panel.series[0].x[-1])] == str(one.looks[-1].n)


def test_its_page_and_paper_have_the_same_ends(sweep):
    table, *_ = read(sweep)
    (plot,) = decision_plots(table)
    for axes, panel in zip(figures._figure(plot).axes, plot.panels, strict=True):
        told = json.loads(figure(plot, panel, {}))["layout"]["yaxis"]["range"]
        assert axes.get_ylim() == pytest.approx(told)
    assert len({tuple(axes.get_ylim()) for axes in figures._figure(plot).axes}) == 4


def test_its_folder_has_page_and_figure(sweep, path):
    page = path.read_text()
    assert "schedule: linear − cosine" in page
    assert "smallest that these seeds can show" not in page
    assert (sweep.report / "figures" / "decided_fd_digits_cnn.pdf").is_file()


@pytest.mark.needs("chromium")
def test_a_phone_shows_every_panel(browser, path):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(path.as_uri())
    card = page.locator(".plot", has_text="Differences by number of seeds")
    card.scroll_into_view_if_needed()
    card.locator(".main-svg .scatterlayer .trace").first.wait_for(state="attached")
    assert card.locator(".panel .scatterlayer").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_of_cells_the_losers_are_not_compared_further(tmp_path):
    table, _, known = read(decided(tmp_path, pairs="cells"))
    lost = [one for one in table.decision.pairs if one.outcome is Outcome.LOST]
    others = [one for one in table.decision.pairs if one.outcome is not Outcome.LOST]
    assert {said.what for said in known.findings} == {"schedule and variance"}
    assert sum(said.sure for said in known.findings) == sum(one.outcome is not Outcome.UNDECIDED for one in others)
    assert (len(lost), len(others)) == (7, 8)
    assert len(known.findings) == 8 + 4, "one for each cell that lost"
    (plot,) = decision_plots(table)
    assert len(plot.panels) == min(12, len(table.decision.pairs))
    assert any(panel.title == "linear · fixed_large − cosine · learned" for panel in plot.panels)


@pytest.mark.parametrize(("question", "outcome", "sure"), [
    ({"smallest": 0.5}, Outcome.CLOSE, True),
    ({"rule": "open"}, Outcome.UNDECIDED, False),
    ({"most_seeds": 4}, Outcome.UNDECIDED, False),
], ids=["close", "open rule", "undecided"])  # fmt: skip
def test_close_and_undecided_pairs_have_no_winner(tmp_path, question, outcome, sure):
    axes = {"schedule": ["cosine"], "variance": ["fixed_large", "learned"], "seed": SEEDS}
    table, _, known = read(decided(tmp_path, axes, **question))
    assert [one.outcome for one in table.decision.pairs] == [outcome]
    assert [(said.sure, "better" in said.text) for said in known.findings] == [(sure, False)]
    assert ("rule=open" in known.next) == (outcome is Outcome.UNDECIDED and "rule" not in question)
    ((panel,),) = [plot.panels for plot in decision_plots(table)]
    assert (("±0.5", 0.5) in panel.levels) == (outcome is Outcome.CLOSE)
    assert (panel.series[0].error[0] is None) == ("rule" in question), "the open rule has no interval for three seeds"


def test_choices_that_are_equal_in_every_seed(tmp_path):
    def equal(choices, metrics):
        metrics["values"]["fd_digits_cnn"] = 5.0 + int(choices["seed"])

    axes = {"schedule": ["linear", "cosine"], "seed": SEEDS}
    table, _, known = read(decide(write_sweep(tmp_path, axes=axes, change=equal)))
    assert [one.outcome for one in table.decision.pairs] == [Outcome.SAME]
    assert "linear and cosine are equal" in known.findings[0].text


def test_an_unfinished_sweep_says_how_it_goes_on(sweep, tmp_path):
    """After two seeds nothing was looked at."""
    axes = {"schedule": ["linear", "cosine"], "seed": SEEDS[:2]}
    table, _, known = read(decided(tmp_path, axes, most_seeds=10))
    assert [said.sure for said in known.findings] == [False]
    assert "seed 3" in known.next
    assert decision_plots(table) == []


def test_many_pairs_show_the_last_decided(sweep):
    """Of four copies of the pairs."""
    table, *_ = read(sweep)
    many = replace(
        table,
        decision=replace(table.decision, pairs=tuple(replace(one) for _ in range(4) for one in table.decision.pairs)),
    )
    (plot,) = decision_plots(many)
    assert len(plot.panels) == 12
    assert sum("undecided" in panel.verdict for panel in plot.panels) == 4
