from PIL import Image


def test_schedule_prints_plots_and_shows_the_forward_chain(lab):
    out = lab.done("schedule", "schedule=cosine", "num_images=3")
    assert "4.928e-05" in out  # √ᾱ_T
    assert "25 of 1000 steps" in out
    assert "warning" not in out
    for name in ("schedule.png", "forward.png"):
        with Image.open(lab.folder / "schedule" / name) as image:
            assert image.size[0] > 300
            times = image.convert("L").crop((0, 0, image.width, 14))
    assert times.getextrema() == (0, 255)  # written in black on white, above the images
    assert sum(times.histogram()[200:]) > times.width * times.height / 2


def test_schedule_warns_where_signal_is_left_at_the_end(lab):
    assert "warning: √ᾱ_T = 0.59" in lab.done("schedule", "schedule=linear", "schedule.beta_end=0.002", "num_images=2")


def test_schedule_knows_what_is_no_alpha_bar_too(lab):
    """Signal that stays, and steps at real t."""
    out = lab.done("schedule", "schedule=edm", "sampler=heun", "num_images=2")
    assert "25 of 1000 steps" in out
    assert "12.43" in out  # log SNR at t = 1: 2·log(1/0.002)
    assert "warning" not in out
