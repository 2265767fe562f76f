import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from diffusion_lab.report.conclusions import conclusions
from diffusion_lab.report.exports import cell_csv, escape_tex, latex, markdown, row_csv, terminal
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table

from .synthetic import table_of


def test_csv_keeps_every_digit_of_every_cell(sweep):
    gathered = read_sweep(sweep)
    lines = list(csv.DictReader(io.StringIO(cell_csv(gathered))))
    assert [float(line["bits_per_dim"]) for line in lines] == [cell.values["bits_per_dim"] for cell in gathered.cells]
    assert [line["seed"] for line in lines[:2]] == ["1", "2"]
    assert all("bound" in line["bits_per_dim_kind"] for line in lines)


def test_csv_holds_no_formulas(sweep):
    """A spreadsheet runs what begins so; numbers stay numbers."""
    gathered = read_sweep(sweep)
    texts = ["=1+1", "+x", "@x", "-x", "-3", "+.5", "cosine"]
    cells = [replace(gathered.cells[0], choices={"=axis": text}) for text in texts]
    head, *lines = csv.reader(io.StringIO(cell_csv(replace(gathered, cells=cells))))
    assert head[0] == "'=axis"
    assert [line[0] for line in lines] == ["'=1+1", "'+x", "'@x", "'-x", "-3", "+.5", "cosine"]


def test_csv_of_rows_has_means_and_errors(sweep):
    table = build_table(read_sweep(sweep))
    lines = list(csv.DictReader(io.StringIO(row_csv(table))))
    assert len(lines) == 26
    assert [float(line["recall"]) for line in lines] == [row.values["recall"].mean for row in table.rows]
    assert [float(line["recall_error"]) for line in lines] == [row.values["recall"].error for row in table.rows]
    assert {line["seeds"] for line in lines} == {"2"}


def test_markdown_is_a_table_with_its_notes(sweep):
    lines = markdown(build_table(read_sweep(sweep))).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 26 + 1
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert rows[-1].startswith("| real images |")
    assert any("bound of a strided chain" in line for line in lines if line.startswith("- "))
    (distance,) = [measure for measure in build_table(read_sweep(sweep)).groups[0].measures if measure.floor_of]
    assert any(distance.meaning in line for line in lines if line.startswith("- ")), "by which features it is"


@pytest.mark.parametrize("axes", [{"seed": ["1", "2", "3"]}, {"seed": ["1"]}], ids=["seeds", "one cell"])
def test_the_floor_stands_in_its_column_where_no_axis_has_one(tmp_path, axes):
    rows = [line for line in markdown(table_of(tmp_path, axes)).splitlines() if line.startswith("|")]
    head, _, _, floor = ([cell.strip() for cell in line.replace(r"\_", "_").strip("|").split("|")] for line in rows)
    assert len(head) == len(floor)
    assert floor[0] == "real images"
    assert float(floor[head.index("fd_digits_cnn ↓")]) == 1.62


def test_latex_has_as_many_columns_as_it_says(sweep):
    text = latex(build_table(read_sweep(sweep)))
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") + 1 for line in rows} == {len(columns)}
    assert r"fd\_digits\_cnn" in text
    assert r"$\pm$" in text


def test_latex_escapes_what_latex_would_read():
    assert escape_tex(r"50% of a_b & {c} \d #1 ~ ^") == (
        r"50\% of a\_b \& \{c\} \textbackslash{}d \#1 \textasciitilde{} \textasciicircum{}"
    )


def test_choices_in_brackets_are_shown_as_they_are(tmp_path):
    """Rich takes [pixels] for a style and [/a] for its end, LaTeX [1,2] after a line for its height."""
    values = ["[pixels]", "[/a]", "[1,2]", "*"]
    table = table_of(tmp_path, {"[odd]": values})
    console = Console(width=200)
    with console.capture() as captured:
        console.print(terminal(table, table.groups[0], 200)[0])
    assert all(value in captured.get() for value in ["[odd]", *values])
    lines = latex(table).splitlines()
    first = [line.split(" & ")[0] for line in lines if line.startswith("{}")]
    assert first == [f"{{}}{text}" for text in ("[odd]", *values)]
    assert not any(line.startswith(("[", "*")) for line in lines)


def test_the_best_is_bold_in_both(tmp_path):
    def change(choices, metrics):
        metrics["values"]["fd_digits_cnn"] = (1.0 if choices["schedule"] == "cosine" else 2.0) + int(choices["seed"])

    table = table_of(tmp_path, {"schedule": ["linear", "cosine"], "seed": ["1", "2"]}, change)
    assert "**2.50 ± 0.50**" in markdown(table)
    assert r"\textbf{2.50 $\pm$ 0.50}" in latex(table)
    assert "**3.50" not in markdown(table)


def test_what_is_alike_in_a_table_is_a_sentence_and_no_column(tmp_path):
    """Two tables, because the number of samples differs between schedules."""

    def change(choices, metrics):
        if choices["schedule"] == "linear":
            metrics["protocol"]["samples"]["num_samples"] = 17

    axes = {"schedule": ["linear", "cosine"], "sampler": ["ddim", "strided"]}
    table = table_of(tmp_path, axes, change)
    assert len(table.groups) == 2
    heads = [line for line in markdown(table).splitlines() if "fd" in line and "|" in line]
    assert all(head.startswith("| sampler |") and "schedule" not in head for head in heads)
    for value in ("linear", "cosine"):
        assert f"- In all rows: schedule {value}." in markdown(table)
        assert f"% In all rows: schedule {value}." in latex(table)


def test_a_narrow_terminal_keeps_the_evaluations_that_differ(tmp_path):
    def change(choices, metrics):
        metrics["values"]["nfe"] = 50 if unequal and choices["sampler"] == "ddim" else 25

    for unequal in (False, True):
        table = table_of(tmp_path / str(unequal), {"sampler": ["ddim", "strided"]}, change)
        assert ("nfe" in {measure.name for measure in terminal(table, table.groups[0], 60)[1]}) == unequal


def test_a_narrow_terminal_has_the_columns_that_fit(tmp_path):
    """Also where no measure is a headline."""

    def change(choices, metrics):
        for name in ("fd_digits_cnn", "fd_digits_resnet", "bits_per_dim", "fd_digits_ssl"):
            metrics["values"].pop(name, None)

    table = table_of(tmp_path, {"sampler": ["ddim", "strided"]}, change)
    (group,) = table.groups
    wide, narrow = (len(terminal(table, group, width)[1]) for width in (300, 30))
    assert 0 < narrow < wide
    ranked = next(measure for measure in group.measures if measure.better)
    (found,) = conclusions(table, group).findings
    assert ranked.label in found.text
