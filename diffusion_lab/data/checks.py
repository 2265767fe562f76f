"""Checks of data and of their options; each message is one sentence with the option or the path, and the fix."""

from collections.abc import Sequence


class DataError(ValueError):
    """The data cannot be used; the message is one sentence with the option or the path, and the fix."""


class IncompleteError(DataError):
    """Items have missing values, and a computation needs all values."""


def require(fits: object, sentence: str) -> None:
    """DataError with this sentence, unless `fits`."""
    if not fits:
        raise DataError(sentence)


def at_least(least: int, group: str = "data", /, **options: float) -> None:
    """DataError, naming it, for an option below `least`. group: whose options they are."""
    for name, value in options.items():
        require(value >= least, f"{group}.{name}={value} must be at least {least}.")


def one_of(allowed: Sequence[str | int | None], /, **options: object) -> None:
    """DataError, naming the option, for a value that is not allowed."""
    *first, last = ("null" if value is None else str(value) for value in allowed)
    for name, value in options.items():
        require(value in allowed, f"data.{name}={value} must be {', '.join(first)} or {last}.")


def check_shares(batch_size: int, processes: int, parts: int) -> None:
    """DataError unless each process can take equally many rows of each part of a batch."""
    among = [f"{processes} processes"] if processes > 1 else []
    among += [f"trainer.accumulate_grad_batches={parts} parts"] if parts > 1 else []
    require(
        batch_size % (processes * parts) == 0,
        f"data.batch_size={batch_size} cannot be divided evenly among {' of '.join(among)}: choose a multiple of "
        f"{processes * parts}.",
    )


def check_fraction(test_fraction: float) -> None:
    """DataError for a share of test images that leaves no training images or no test images."""
    require(0 < test_fraction < 1, f"data.test_fraction={test_fraction} must lie between 0 and 1.")


def check_range(low: int, high: int, num_levels: int, where: str) -> None:
    """DataError unless all values, `low` to `high`, are levels below num_levels. where: the array's name in messages."""
    said = (
        f"{where} has values from {low} to {high}, but data.num_levels={num_levels} allows only 0 to {num_levels - 1}."
    )
    require(0 <= low <= high < num_levels, said)
