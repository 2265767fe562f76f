"""A pickle that does something where it is read."""

from pathlib import Path


class Harm:
    """Makes the file `harm` in the working directory."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)
