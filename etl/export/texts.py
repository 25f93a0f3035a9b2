"""Texts on their way into a spreadsheet: what would run as a formula or break a reader is made harmless, and stays readable.

A text that begins with = + - @, a tab, a carriage return or a line feed gets an apostrophe before it (OWASP's rule against
CSV injection). A control character other than tab, carriage return and line feed becomes its picture (U+2400 and after),
because neither CSV nor the XML inside a workbook can carry it. Numbers are left alone: a negative amount is no formula.
"""

from __future__ import annotations

FORMULA_STARTS = "=+-@\t\r\n"
_CONTROLS = "".join(chr(code) for code in range(0x20) if chr(code) not in "\t\r\n") + "\x7f"
_PICTURES = "".join("\u2421" if char == "\x7f" else chr(0x2400 + ord(char)) for char in _CONTROLS)
_HARMFUL = r"[\x00-\x1f\x7f]|^[=+@-]"  # whatever is changed
_AS_PICTURES = str.maketrans(_CONTROLS, _PICTURES)


def harmless(text: str) -> str:
    """`text` as a spreadsheet may have it."""
    shown = text.translate(_AS_PICTURES)
    return f"'{shown}" if shown[:1] in FORMULA_STARTS and shown else shown


def is_harmful_sql(column: str) -> str:
    """Whether a text column's value would be changed, as an SQL expression."""
    return f"regexp_matches({column}, '{_HARMFUL}')"


def harmless_sql(column: str) -> str:
    """The same as `harmless` as an SQL expression over a text column, null staying null."""
    shown = f"translate({column}, {_chars(_CONTROLS)}, '{_PICTURES}')"
    starts = " OR ".join(f"starts_with({column}, chr({ord(char)}))" for char in FORMULA_STARTS)
    changed = f"CASE WHEN {starts} THEN '''' || {shown} ELSE {shown} END"
    return f"CASE WHEN {is_harmful_sql(column)} THEN {changed} ELSE {column} END"


def _chars(text: str) -> str:
    return " || ".join(f"chr({ord(char)})" for char in text)
