"""A self-contained page: a table, a picture, the plan and the recipe. Nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify.escaping import html

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2128; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #d8dee4; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
th:last-child, td:last-child {{ text-align: left; color: #57606a; }}
svg {{ width: 100%; height: auto; }}
pre {{ background: #f6f8fa; padding: 1rem; overflow-x: auto; font-size: 13px; }}
</style></head><body>
<h1>{title}</h1>
<p>{lead}</p>
{tables}
{svg}
{details}
{sections}
</body></html>
"""


def page(
    title: str,
    lead: str,
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]],
    svg: str,
    sections: Sequence[tuple[str, str]],
    details: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]] = (),
) -> str:
    """Return the page as HTML text. `tables`, and `details` below the picture, are (header, rows),
    `sections` (heading, text as it stands). Everything but `svg` is escaped.
    """
    return _PAGE.format(
        title=html(title),
        lead=html(lead),
        tables="\n".join(_table(header, rows) for header, rows in tables),
        details="\n".join(_table(header, rows) for header, rows in details),
        svg=svg[svg.index("<svg") :],
        sections="\n".join(f"<h2>{html(heading)}</h2><pre>{html(text)}</pre>" for heading, text in sections if text),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"
