"""The book's files as values with line numbers, so that every error can name file, line, field, value and cure."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.counts import counted
from schemas.errors import UsageError

# Fields into which people paste a secret by mistake: an error shows only how the value begins.
_GUARDED = frozenset({"fingerprint", "api_key_env"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one place."""

    file: str
    line: int  # 1 is the first line
    field: str
    value: str | None  # as written, shortened; None where nothing was written
    what: str
    cure: str

    def __str__(self) -> str:
        value = "" if self.value is None else f" '{self.value}'"
        return f"{self.file}:{self.line} {self.field}{value}: {self.what} — {self.cure}"


class BookError(UsageError):
    """The book cannot be used. `problems` holds everything that is wrong, in file and line order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.field)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RefusedError(ValueError):
    """Why one value is refused; it never leaves the loader, which turns it into a Problem with its place."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.what = what
        self.cure = cure


def shown(field: str, value: object, unknown: bool = False) -> str:
    """A value as an error may show it: on one line, short, and never a whole secret."""
    text = value if isinstance(value, str) else _written(value)
    secret = unknown or field in _GUARDED or "sk-" in text or "@" in text
    plain = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    limit = 4 if secret else 60
    return plain if len(plain) <= limit else plain[:limit] + "…"


def _written(value: object) -> str:
    """What a TOML file says where it has this value."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False)
        case datetime():
            text = value.isoformat()
            return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text
        case tuple():
            return f"[{', '.join(_written(item) for item in value)}]"
        case dict():
            return f"{{ {', '.join(f'{name} = {_written(item)}' for name, item in value.items())} }}"
    return str(value)


def closest(name: str, known: Iterable[str]) -> str:
    """The cure for a name that is not known: the one that was probably meant, or the list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"use one of: {', '.join(names)}" if names else "remove it"


def decode(file: str, content: bytes) -> str:
    """The file's text, a byte order mark left out; raises BookError with the line of the first bad byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start : error.start + 1].hex()
        raise BookError([Problem(file, line, "text", f"0x{bad}", "not UTF-8", "save the file as UTF-8")]) from None


# ---- TOML: tomllib gives values, this gives their lines ----

Path = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_KEY})[ \t]*\]\]?")
_ASSIGN = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_VALUE_TOKEN = re.compile(
    r"""
    "{3} (?:[^\\]|\\.)*? "{3,5}(?!") | '{3} .*? '{3,5}(?!')    # strings over several lines
    | "(?:[^"\\\n]|\\.)*" | '[^'\n]*'
    | \#[^\n]* | [\[\]{}] | \n | [^"'\#\[\]{}\n]+
    """,
    re.DOTALL | re.VERBOSE,
)
_TOML_LINE = re.compile(r"^(.*?) \(at (?:line (\d+), column \d+|end of document)\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A parsed TOML file: its values, with lists as tuples, and the line of each header and key."""

    file: str
    data: dict[str, Any]
    lines: dict[Path, int]

    def line(self, place: Path) -> int:
        """The line of `place`, or of the nearest table or key around it."""
        return next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 1)


def read_toml(file: str, content: bytes) -> TomlFile:
    """Parse one TOML file; raises BookError with the line of a syntax error."""
    text = decode(file, content)
    try:
        data = tomllib.loads(text)
    except ValueError as error:
        found = _TOML_LINE.match(str(error))
        what, line = (found[1], int(found[2] or text.count("\n") + 1)) if found else (str(error), 1)
        raise BookError([Problem(file, line, "TOML", None, what, "mend the TOML on this line")]) from None
    return TomlFile(file, {name: _tuples(value) for name, value in data.items()}, toml_lines(text))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def toml_lines(text: str) -> dict[Path, int]:
    """The line of each table header and key in a valid TOML text; the nth `[[a]]` has the path ("a", n)."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        if header := _HEADER.match(text, at):
            table = _enter(header[2], header[1] == "[[", counts)
            for n in range(1, len(table) + 1):
                lines.setdefault(table[:n], line)
            at = _after_value(text, header.end())
        elif assign := _ASSIGN.match(text, at):
            place = table
            for part in _parts(assign[1]):
                place = (*place, part)
                lines.setdefault(place, line)
            at = _after_value(text, assign.end())
        else:
            at = text.find("\n", at) + 1 or len(text)
    return lines


def _parts(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, key)]


def _enter(key: str, array: bool, counts: dict[Path, int]) -> Path:
    """The path of a header, given how many tables each array has had so far."""
    place: Path = ()
    parts = _parts(key)
    for n, part in enumerate(parts):
        place = (*place, part)
        if array and n == len(parts) - 1:
            counts[place] = counts.get(place, 0) + 1
        if place in counts:
            place = (*place, counts[place] - 1)
    return place


def _after_value(text: str, at: int) -> int:
    """Where the next statement begins: after the first line end outside strings and brackets."""
    depth = 0
    while at < len(text) and (token := _VALUE_TOKEN.match(text, at)):
        at = token.end()
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if token[0] == "\n" and depth <= 0:
            return at
    return len(text)


# ---- CSV ----


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of a CSV file, its cells by column name and stripped of spaces at the ends."""

    line: int  # where the row begins: a quoted cell may go on over several lines
    cells: dict[str, str]


def read_csv(file: str, content: bytes, columns: Sequence[str], optional: Sequence[str] = ()) -> tuple[list[CsvRow], list[Problem]]:
    """The rows under a header that has exactly these columns, in any order; what is wrong comes back as problems.

    A column of `optional` may be left out of the header: its cells then read as empty.
    """
    header_cure = f"make the first line: {','.join(columns)}"
    reader = csv.reader(io.StringIO(decode(file, content), newline=""), strict=True)
    rows: list[CsvRow] = []
    problems: list[Problem] = []
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            problems.append(
                Problem(file, line, "row", None, f"not CSV ({error})", "close every quote and double a quote inside a quoted cell")
            )
            break
        if not any(cells):
            continue
        if header is None:
            header = cells
            problems.extend(_header_problems(file, line, header, columns, optional, header_cure))
            if problems:
                return [], problems
        elif len(cells) != len(header):
            what = f"{counted(len(cells), 'cell')} under {counted(len(header), 'column')}"
            problems.append(
                Problem(file, line, "row", shown("row", ",".join(cells)), what, "put quotes round a cell with a comma, or add the commas")
            )
        else:
            rows.append(CsvRow(line, dict.fromkeys(optional, "") | dict(zip(header, cells, strict=True))))
    if header is None and not problems:
        problems.append(Problem(file, 1, "header", None, "the file has no header", header_cure))
    return rows, problems


def _header_problems(file: str, line: int, header: list[str], columns: Sequence[str], optional: Sequence[str], cure: str) -> list[Problem]:
    problems = [Problem(file, line, name, None, "the header has no such column", cure) for name in columns if name not in header]
    for n, name in enumerate(header):
        if name not in columns and name not in optional:
            known = (*columns, *optional)
            problems.append(Problem(file, line, "header", shown("header", name), "not a column of this file", closest(name, known)))
        elif name in header[:n]:
            problems.append(Problem(file, line, "header", name, "the column stands there twice", cure))
    return problems
