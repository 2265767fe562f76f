import pytest

from diffusion_lab.store.records import COUNT, SWEEP, TEXT, TRAINING, Kinds, RunError, read_record, write_json, wrong_in

KINDS: Kinds = {"a.*.n": COUNT, "b?.name": TEXT, "c?": TEXT}


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ({"a": []}, None),
        ({"a": [{"n": 1}, {"n": 2.5}], "b": {"name": "x"}, "c": "y"}, None),
        ({"a": {"x": {"n": 1}}}, None),
        ({}, "a is missing"),
        ({"a": [{"n": 1}, {}]}, "a.1.n is missing"),
        ({"a": [{"n": True}]}, "a.0.n=True is not a number"),
        ({"a": {"x": {"n": -1}}}, "a.x.n=-1 is not a number"),
        ({"a": 3}, "a.* is missing"),
        ({"a": [], "b": {}}, "b.name is missing"),
        ({"a": [], "b": "x"}, "b.name is missing"),
        ([], "a is missing"),
    ],
)
def test_the_first_wrong_entry_is_named(content, wrong):
    assert wrong_in(content, KINDS) == wrong


@pytest.mark.parametrize("kinds", [TRAINING, SWEEP])
def test_a_record_of_nothing_is_refused_by_name(tmp_path, kinds):
    file = tmp_path / "record.json"
    write_json(file, {})
    with pytest.raises(RunError, match=r"record\.json is not what a test writes: \w+ is missing"):
        read_record(tmp_path, file, kinds, "a test")


@pytest.mark.parametrize("shares", [[], [0, 0], [0.5, 1.0], [2, -1], ["1"], 1])
def test_shares_sum_to_one(shares):
    training = {"steps": 1, "seconds": 1, "images": 1, "conditions": {"clusters": {"shares": shares}}}
    assert "shares" in (wrong_in(training, TRAINING) or "")
