"""Values as text in Hydra's override grammar."""

from __future__ import annotations

import json
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar, where nothing in it is read as anything else."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return QuotedString(value, Quote.double).with_quotes()
        case list():
            return f"[{','.join(map(quoted, value))}]"
    return str(value)
