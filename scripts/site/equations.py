"""Equations are Unicode text; on the site their indices are set below and above the line.

A displayed equation is a paragraph of class eq. In the prose of a page of theory, a single letter with an index is one too: x_t.
"""

import re

_EQUATION = re.compile(r'(<p class="eq">)(.*?)(</p>)', re.DOTALL)
_BRACES = re.compile(r"([_^])\{([^{}]*)\}")
_WORD = re.compile(r"([_^])((?:(?![²³])[\w∞])+)")
_IN_PROSE = re.compile(r"(?<![\w`/.])((?:[^\W\d_]|[∏∑])[\u0300-\u036f]?²?)_(\{[^{}]*\}|(?:(?![²³])[^\W_]){1,6}|∞)")
_CODE = re.compile(r"(`[^`\n]*`|\]\([^)]*\)|<p class=\"eq\">.*?</p>)", re.DOTALL)


def typeset(text: str) -> str:
    """x_{t−1} -> x<sub>t−1</sub>, in every displayed equation."""
    return _EQUATION.sub(lambda found: found[1] + _indices(found[2]) + found[3], text)


def typeset_prose(text: str) -> str:
    """The same in sentences, outside code, links and displayed equations."""
    return "".join(part if _CODE.fullmatch(part) else _IN_PROSE.sub(_in_prose, part) for part in _CODE.split(text))


def _in_prose(found: re.Match) -> str:
    return f"<i>{found[1]}</i>{_index('_', found[2].strip('{}'))}"


def _indices(text: str) -> str:
    text = _BRACES.sub(lambda found: _index(found[1], _indices(found[2])), text)
    return _WORD.sub(lambda found: _index(found[1], found[2]), text)


def _index(sign: str, text: str) -> str:
    tag = "sub" if sign == "_" else "sup"
    return f"<{tag}>{text}</{tag}>"
