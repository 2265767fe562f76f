from diffusion_lab.commands.score_table import score_table
from diffusion_lab.terminal import Terminal
from tests.metrics.stand_ins import described


def shown(
    values: dict[str, float],
    absent: dict[str, str],
    measures: list[dict] | None = None,
    everything: bool = True,
    real_images: int = 50,
) -> str:
    protocol = {
        "data": {"name": "coloured"},
        "model": {"family": "painter", "sampler": "DDIMSampler(spacing=EvenSpacing(num_steps=3))"},
        "weights": "raw",
        "samples": {"num_images": 50},
        "reference": {"split": "train", "num_images": 300},
        "floor": {"split": "test", "num_images": real_images},
        "cost": {"device": "cpu"},
        "features": {"name": "inception"},
        "absent": absent,
    }
    console = Terminal(width=120)
    with console.capture() as captured:
        metrics = {"values": {"nfe": 3} | values, "protocol": protocol}
        measures = described(metrics) if measures is None else measures
        console.print(score_table(metrics | {"measures": measures}, everything), soft_wrap=False)
    return captured.get()


def test_brackets_in_what_it_shows_are_no_markup():
    said = shown({"odd": 1.0}, {}, measures=[{"name": "odd", "label": "[/a]", "meaning": "[red]", "better": "lower"}])
    assert "[/a] ↓" in said
    assert "[red]" in said
    assert "\\" not in said


def test_what_could_not_be_measured_stands_there_with_its_reason():
    said = " ".join(shown({}, {"fid": "2 of 50 samples are not finite"}).split())
    assert "not measured: fid: 2 of 50 samples are not finite" in said


def test_evaluations_of_guidance_are_explained():
    assert "DDIM of 3 evaluations," in shown({}, {})
    assert "DDIM of 6 evaluations (3 steps)," in " ".join(shown({"nfe": 6}, {}).split())


def test_by_default_there_are_the_main_rows_and_no_reasons():
    values = {
        "fd_inception": 4.0,
        "fd_inception_floor": 1.5,
        "kd_inception": 0.1,
        "precision": 0.5,
        "bits_per_dim": 2.0,
    }
    said = shown(values, {"class_entropy": "no labels"}, everything=False)
    assert [line.split()[0] for line in said.splitlines()[2:]] == ["fd_inception", "precision", "bits/dim"]
    assert "real images: 1.500;" in said
    assert "real images: 1.500 (20 of them);" in shown(values, {}, everything=False, real_images=20)
    without = shown({"recall": 0.4}, {"fd_inception": "not finite", "bits_per_dim": "no likelihood"}, everything=False)
    assert "not finite" in without
    assert "no likelihood" not in without


def test_a_number_that_describes_itself_needs_no_code_that_knows_it():
    colours = {
        "name": "colours",
        "label": "colours",
        "unit": "hues",
        "better": "higher",
        "decimals": 1,
        "detail": "of 7",
    }
    said = shown({"colours": 3.25, "colours_standard_error": 0.5}, {}, measures=[colours])
    assert "colours ↑ 3.2 ± 0.5 hues of 7" in " ".join(said.split())


def test_a_stated_interval_stands_behind_its_value():
    measures = [{"name": "fid_infinity", "label": "  at n = ∞", "better": "lower"}]
    said = shown({"fid_infinity": 11.5, "fid_infinity_low": 10.25, "fid_infinity_high": 12.75}, {}, measures=measures)
    assert "at n = ∞ ↓ 11.500 [10.250, 12.750]" in " ".join(said.split())
    said = shown({"fid_infinity": -0.3, "fid_infinity_low": -0.5, "fid_infinity_high": 1.124}, {}, measures=measures)
    assert "at n = ∞ ↓ 0 to 1.124" in " ".join(said.split())
