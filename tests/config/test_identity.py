"""What identifies a score: the content of what it is made of."""

from diffusion_lab.config.identity import features_by_content


def test_weights_count_by_their_content(tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"1")
    features = {
        "shipped": {"name": "digits_cnn"},
        "own": {"name": "x", "weights": str(own)},
        "pixels": {"name": "none"},
    }
    found = features_by_content(features)
    assert {name for name, options in found.items() if options != features[name]} == {"shipped", "own"}
    own.write_bytes(b"2")
    assert features_by_content(features)["own"] != found["own"]
