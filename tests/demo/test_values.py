"""Nothing that the page does not offer gets through."""

import math

import pytest

from diffusion_lab.demo.values import Offers, checked

OFFERS = Offers(
    model="m",
    samplers={"ddim": ("even", 50), "fast": ("log_snr", 10)},
    spacings=("even", "log_snr"),
    max_steps=100,
    guidances=("none", "classifier_free"),
    weighs=("classifier_free",),
    num_classes=10,
    class_names=(),
    schedules=("cosine",),
)
SENT = {
    "sampler": "ddim", "spacing": "even", "num_steps": 20, "guidance": "classifier_free", "scale": 3, "label": 7, "seed": 1,
    "num_images": 4, "compare": "cosine",
}  # fmt: skip


def test_what_the_page_sends_becomes_options_of_sample():
    values = checked(SENT, OFFERS)
    assert values.options() == {
        "sampler": "ddim",
        "sampler/spacing": "even",
        "sampler.spacing.num_steps": 20,
        "guidance": "classifier_free",
        "guidance.scale": 3.0,
        "num_images": 4,
        "seed": 1,
        "label": 7,
    }
    assert "guidance.scale" not in checked({**SENT, "guidance": "none"}, OFFERS).options()
    assert "label" not in checked({**SENT, "label": None}, OFFERS).options()


def test_a_model_without_steps_has_seed_and_number_only():
    offers = Offers("m", {}, (), 0, (), ("classifier_free",), 0, (), ())
    values = checked({**dict.fromkeys(SENT), "seed": 0, "num_images": 1}, offers)
    assert values.options() == {"seed": 0, "num_images": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampler", "../ddim"),
        ("sampler", "ddim eta=1"),
        ("sampler", None),
        ("sampler", ["ddim"]),
        ("spacing", "optimal"),
        ("num_steps", 0),
        ("num_steps", 101),
        ("num_steps", True),
        ("num_steps", "20"),
        ("num_steps", 20.0),
        ("guidance", "classifier"),
        ("scale", math.nan),
        ("scale", math.inf),
        ("scale", "2"),
        ("scale", -1),
        ("label", 10),
        ("label", -1),
        ("seed", 2**64),
        ("num_images", 10**9),
        ("compare", "linear"),
    ],
)
def test_anything_else_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        checked({**SENT, name: value}, OFFERS)


@pytest.mark.parametrize("sent", [None, [], {}, {**SENT, "model_dir": "/"}], ids=str)
def test_a_request_has_these_values_and_no_others(sent):
    with pytest.raises(ValueError, match="one value for each control"):
        checked(sent, OFFERS)
