"""guidance=autoguidance, and guidance.worse of others: the worse model, checked against the model that is led away from it."""

from __future__ import annotations

from pathlib import Path

from diffusion_lab.config.unguided import unguided
from diffusion_lab.config.weights import load_weights
from diffusion_lab.diffusion import Autoguidance, Schedule, Worse
from diffusion_lab.diffusion.intervals import Interval
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.contents import snapshot_name
from diffusion_lab.store.moments import read_moment
from diffusion_lab.training.ema import default_weights

USUAL_MOMENT = 0.2  # one of snapshots.at; conf/guidance/autoguidance.yaml says what was best where


class TrainedWorse(Worse):
    """The model in the folder `model`, a folder of outputs/models, which is read as any is; None: the model itself.

    moment: when, as `read_moment` reads it; None: at its end. schedule, identity: of the model that is guided, and of its data.
    Raises ValueError where the worse model has another process or other data: it would be asked about images that it has never
    seen.
    """

    def __init__(self, moment: float | str | None, model: Path | None, schedule: Schedule, identity: str) -> None:
        _check(moment)
        if model is None:
            super().__init__(moment)
            return
        directory = ModelDirectory(Path(model))
        fix = "the model to be guided; train a worse model on the model's data"
        worse = unguided(directory, identity, f"guidance.model={model}", fix)
        if worse.schedule != schedule:
            raise ValueError(
                f"guidance.model={model}: it was trained under {worse.schedule}, but the model to be guided under {schedule}; "
                "train a worse model with the model's schedule"
            )
        last = default_weights(directory.weight_names, directory.read_training()["steps"])
        weights = last if moment is None else snapshot_name(moment)
        load_weights(worse, directory, weights)
        with worse.use_weights(weights):
            super().__init__(moment, worse.frozen(), f"{directory.path.name}, {weights}")


class TrainedAutoguidance(Autoguidance):
    """Autoguidance by the worse model that `moment` and `model` name, as in `TrainedWorse`; by default an earlier moment."""

    def __init__(
        self,
        scale: float | int,
        moment: float | int | str | None,
        model: Path | None,
        schedule: Schedule,
        identity: str,
        interval: Interval = None,
        log_snr_interval: Interval = None,
    ) -> None:
        when = USUAL_MOMENT if moment is None and model is None else moment
        super().__init__(TrainedWorse(when, model, schedule, identity), scale, interval, log_snr_interval)


def _check(moment: float | str | None) -> None:
    if isinstance(moment, str):
        try:
            read_moment(moment)
        except ValueError as error:
            raise ValueError(f"guidance.moment={moment}: {error}") from None
