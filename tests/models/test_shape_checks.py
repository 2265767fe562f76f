import pytest

from diffusion_lab.models.shape_checks import check_axes, check_bounded, check_network
from diffusion_lab.networks import MLP, UNet


def test_a_network_of_points_takes_no_images():
    points, images = MLP(2, 2, hidden=4), UNet(1, 1, 8, attention_resolutions=[])
    check_network(points, (2,))
    check_network(images, (1, 8, 8))
    with pytest.raises(ValueError, match="remove network="):
        check_network(points, (1, 8, 8))


@pytest.mark.parametrize(("shape", "name"), [((1, 8), "series"), ((1, 8, 8, 8), "volumes")])
def test_other_families_take_images_and_points(shape, name):
    for shape_taken in ((2,), (3, 8, 8)):
        check_axes(shape_taken)
    with pytest.raises(ValueError, match=f"{name}: use model=diffusion"):
        check_axes(shape)


def test_families_of_bounded_images_take_no_real_numbers():
    check_bounded((1, 8, 8), 256)
    check_bounded((2,), None)
    with pytest.raises(ValueError, match="real numbers: use model=diffusion"):
        check_bounded((1, 8, 8), None)
