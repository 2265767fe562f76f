import pytest

from diffusion_lab.store.records import (
    FactsRecord,
    RunError,
    SweepRecord,
    TrainingRecord,
    read_record,
    write_json,
    wrong_in,
)

TRAINED = {"steps": 1, "seconds": 1.5, "images": None}
CELL = {"choices": {"seed": "1"}, "model": "m", "run": "r"}


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (TRAINED, TrainingRecord, None),
        (TRAINED | {"conditions": {"clusters": {"shares": [0.25, 0.75]}}, "new": "?"}, TrainingRecord, None),
        (TRAINED | {"steps": "many"}, TrainingRecord, "steps='many': "),
        (TRAINED | {"steps": True}, TrainingRecord, "steps=True: "),
        (TRAINED | {"seconds": -1}, TrainingRecord, "seconds=-1: "),
        (TRAINED | {"conditions": {"clusters": {"shares": [0.5, 1]}}}, TrainingRecord, "conditions.clusters.shares="),
        ([], TrainingRecord, ""),
        ({"axes": {}, "cells": [CELL]}, SweepRecord, None),
        ({"axes": {}, "cells": [CELL, CELL | {"run": "../r"}]}, SweepRecord, "cells.1.run='../r': "),
        ({"facts": {"shape": [3, 8, 8], "conditions": [10, [1, 8, 8]]}}, FactsRecord, None),
        ({"facts": {"shape": [1, 2**20, 2**20]}}, FactsRecord, "facts.shape="),
        (
            {"facts": {"units": {"shift": [0.0], "scale": [0.0], "names": None}}},
            FactsRecord,
            "facts.units.scale.0=0.0: ",
        ),
    ],
)
def test_the_first_wrong_entry_is_named(content, kind, said):
    wrong = wrong_in(content, kind)
    assert wrong is None if said is None else wrong.startswith(said)


@pytest.mark.parametrize("kind", [TrainingRecord, SweepRecord])
def test_a_record_of_nothing_is_refused_by_name(tmp_path, kind):
    file = tmp_path / "record.json"
    write_json(file, {})
    with pytest.raises(RunError, match=r"record\.json is not valid: \w+ is missing"):
        read_record(file, kind)
