"""Pages for people: one self-contained HTML file each, with its style and its charts inside, and the same file as PDF."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Sequence
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from etl.table import cell, numeric
from schemas.counts import counted
from schemas.errors import LedgerError

PANGO = "apt-get install libpangoft2-1.0-0"


class NoPangoError(LedgerError):
    """The library that sets the text of a PDF is not on this machine."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"a PDF needs Debian's pango, which cannot be loaded: {str(error).splitlines()[0]}",
            f"{PANGO}  (as root), or take --format html and print it",
        )


def environment_of(*in_front: BaseLoader) -> Environment:
    """The templates of etl/templates, behind those of other loaders: a frame in front puts the same body into another page."""
    loader = ChoiceLoader([*in_front, PackageLoader("etl")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    environment.filters["words"] = lambda name: name.replace("_", " ")
    environment.globals["kinds"] = kinds
    environment.globals["counted"] = counted
    environment.globals["style"] = Markup(environment.get_template("page.css").render())  # noqa: S704  our own file
    return environment


def kinds(columns: Sequence[str], rows: Sequence[Sequence[Any]], ids: Sequence[str]) -> list[str | None]:
    """The class of each column of a table: n (numbers), t (instants), id (one of `ids`), null for words."""
    instants = [any(isinstance(row[i], dt.datetime) for row in rows) for i in range(len(columns))]
    return [
        "n" if number else "t" if at else "id" if name in ids else None
        for name, number, at in zip(columns, numeric(len(columns), rows), instants, strict=True)
    ]


@functools.cache
def _environment() -> Environment:
    return environment_of()


def html(template: str, **facts: Any) -> str:
    """The page that a template of etl/templates makes of `facts`; every text among them is escaped, only charts are markup."""
    return _environment().get_template(template).render(**facts)


def chart(svg: str) -> Markup:
    """A drawn chart as markup: Vega wrote it, and has escaped the names in it."""
    return Markup(svg)  # noqa: S704  see above


def pdf(page: str) -> bytes:
    """The page as PDF, without clock or chance in it; nothing is fetched. Raises NoPangoError."""
    try:
        import weasyprint  # noqa: PLC0415  it takes as long to load as a receipt to write, and only PDFs need it
        from weasyprint.urls import URLFetcher  # noqa: PLC0415  see above
    except OSError as error:
        raise NoPangoError(error) from None
    document: bytes = weasyprint.HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=())).write_pdf()
    return document
