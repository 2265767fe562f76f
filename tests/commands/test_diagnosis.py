"""metrics=diagnose as a user meets it: curves by log SNR in the score and as plots of the report."""

from .conftest import STRIDED, TINY, scored

DIAGNOSE = ["metrics=diagnose", "metrics.distance_by_log_snr.num_points=3", "metrics.distance_by_log_snr.num_images=40"]
DIAGNOSE += ["metrics.error_by_log_snr.num_points=3", "metrics.error_by_log_snr.num_images=8", "features=pixels"]


def test_a_model_is_diagnosed_and_the_report_draws_it(lab):
    lab.given("train", *TINY, *STRIDED, "conditional=true")
    out = lab.done("evaluate", *DIAGNOSE)
    assert "fd_pixels_share_above_0" in out
    assert "largest excess error" in out
    found = [run["curves"] for run in scored(lab.folder)]
    (curves,) = [curves for curves in found if "error_by_log_snr" in curves]
    distances, errors = curves["distance_by_log_snr"], curves["error_by_log_snr"]
    assert len(distances["fd_pixels"]) == len(distances["log_snr"]) == 3
    assert distances["fd_pixels"][0] < distances["fd_pixels"][-1]
    assert all(
        error >= least for error, least in zip(errors["velocity_mse"], errors["least_velocity_mse"], strict=True)
    )
    lab.done("report", "runs=outputs/runs", "to=report")
    figures = {path.name for path in (lab.folder / "report" / "figures").iterdir()}
    assert {"distance_by_log_snr_fd_pixels.pdf", "error_by_log_snr_velocity_mse.pdf"} <= figures


def test_a_family_without_a_chain_says_so(lab):
    lab.given("train", "model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false")
    lab.done("evaluate", *DIAGNOSE, "evaluation.num_samples=8")
    (run,) = scored(lab.folder)
    absent = run["protocol"]["absent"]
    assert absent["largest_excess_error"] == absent["fd_pixels_share_above_0"] == "this family has no noisy chain"
