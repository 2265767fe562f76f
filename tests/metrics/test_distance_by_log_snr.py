from diffusion_lab.metrics.distance_by_log_snr import _share


def test_the_share_above_a_log_snr_is_read_off_the_line_between_two_points():
    assert _share([2.0, -2.0], [1.0, 3.0], 0.0) == 0.5
    assert _share([4.0, 1.0, -1.0, -4.0], [1.0, 2.0, 4.0, 5.0], 0.0) == 0.5
    assert _share([4.0, -4.0], [2.0, 2.0], 0.0) is None
    assert _share([8.0, 2.0], [1.0, 2.0], 0.0) is None  # the chain ends above it
