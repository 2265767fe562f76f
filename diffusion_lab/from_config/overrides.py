"""Values as text in Hydra's override grammar."""

from __future__ import annotations

import json
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException


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


def unquoted(text: str) -> str:
    """The text that a user put in quotes, without them and their escapes; anything else, as it is."""
    if not text.startswith(("'", '"')):
        return text
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:  # Hydra says so when it composes the config
        return text
    return value if isinstance(value, str) else text
