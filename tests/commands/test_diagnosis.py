"""metrics=diagnose as a user meets it: curves by log SNR in the score and as plots of the report."""

import json

from .conftest import STRIDED, TINY

DIAGNOSE = ["metrics=diagnose", "metrics.distance_by_log_snr.num_points=3", "metrics.distance_by_log_snr.num_images=40"]
DIAGNOSE += ["metrics.error_by_log_snr.num_points=3", "metrics.error_by_log_snr.num_images=8", "features=pixels"]


def test_a_model_is_diagnosed_and_the_report_draws_it(lab):
    lab.given("train", *TINY, *STRIDED, "conditional=true")
    code, out, err = lab("evaluate", *DIAGNOSE)
    assert code == 0, err
    assert "fd_pixels_share_above_0" in out
    assert "largest excess error" in out
    found = [json.loads(path.read_text())["curves"] for path in lab.folder.glob("outputs/runs/*/metrics.json")]
    (curves,) = [curves for curves in found if "error_by_log_snr" in curves]
    distances, errors = curves["distance_by_log_snr"], curves["error_by_log_snr"]
    assert len(distances["fd_pixels"]) == len(distances["log_snr"]) == 3
    assert distances["fd_pixels"][0] < distances["fd_pixels"][-1]
    assert all(
        error >= least for error, least in zip(errors["velocity_mse"], errors["least_velocity_mse"], strict=True)
    )
    code, _, err = lab("report", "runs=outputs/runs", "to=report")
    assert code == 0, err
    figures = {path.name for path in (lab.folder / "report" / "figures").iterdir()}
    assert {"distance_by_log_snr_fd_pixels.pdf", "error_by_log_snr_velocity_mse.pdf"} <= figures


def test_a_family_without_a_chain_says_so(lab):
    lab.given("train", "model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false")
    code, _, err = lab("evaluate", *DIAGNOSE, "evaluation.num_samples=8")
    assert code == 0, err
    (path,) = (lab.folder / "outputs" / "runs").glob("*/metrics.json")
    absent = json.loads(path.read_text())["protocol"]["absent"]
    assert absent["largest_excess_error"] == absent["fd_pixels_share_above_0"] == "this family has no noisy chain"
