from rich.console import Console

from diffusion_lab.commands.table import score_table


def shown(values: dict[str, float], absent: dict[str, str]) -> str:
    protocol = {
        "data": {"name": "coloured"},
        "model": {"family": "painter"},
        "weights": "raw",
        "samples": {"num_images": 50},
        "reference": {"split": "train", "num_images": 300},
        "floor": {"split": "test", "num_images": 50},
        "cost": {"device": "cpu"},
        "inception_score": {"num_parts": 10},
        "absent": absent,
    }
    console = Console(width=120)
    with console.capture() as captured:
        console.print(score_table({"values": {"nfe": 3} | values, "protocol": protocol}))
    return captured.get()


def test_inception_numbers_have_their_names_and_their_direction():
    said = shown({"fid": 12.345, "fid_floor": 1.5, "inception_score": 2.5, "inception_score_std": 0.25}, {})
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "fid 12.345 n = 50 vs 300 train images; lower is better" in lines
    assert "its floor 1.500 n = 50 real test images vs the same" in lines
    assert "inception score 2.500 ± 0.250 n = 50 in 10 parts; higher is better" in lines


def test_what_could_not_be_measured_stands_there_with_its_reason():
    mixed = "some samples were drawn on a card, others on cpu"
    absent = {"fid": "2 of 50 samples are not finite", "seconds_per_1000_samples": mixed}
    said = " ".join(shown({}, absent).split())
    assert "fid – 2 of 50 samples are not finite" in said
    assert f"seconds – {mixed}" in said
