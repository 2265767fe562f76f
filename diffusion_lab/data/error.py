"""What is wrong with the data, said to the user."""


class DataError(ValueError):
    """The data cannot be used: one sentence that names the option or the path, and what to do."""
