"""Which sizes can a network have? The checks that all of them share; what is wrong is named as the option that it is."""


def check_counts(group: str = "network", /, **counts: int) -> None:
    """ValueError, naming it, for a size that is not a positive whole number. group: whose options they are."""
    for name, count in counts.items():
        if count < 1 or count != int(count):
            raise ValueError(f"{group}.{name}={count} must be a whole number of at least 1")


def check_dropout(dropout: float) -> None:
    """ValueError where it is no probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"network.dropout={dropout} must be at least 0 and below 1")
