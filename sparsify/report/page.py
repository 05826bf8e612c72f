"""A self-contained page: a table, a picture, the plan and the recipe. Nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsify.escaping import html

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #ffffff; --ink: #1c2128; --faint: #57606a; --line: #d8dee4;
  --field: #eef1f4; --card: #2a6fbb; --hole: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ground: #14181d; --ink: #e3e7ec; --faint: #9aa4af; --line: #343b44;
    --field: #232a32; --card: #4f8fd8; --hole: #14181d; }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--ground); }}
h1 {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }}
th {{ vertical-align: bottom; }}
td {{ overflow-wrap: break-word; }}
td.number {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
th:first-child, td:first-child {{ text-align: left; overflow-wrap: anywhere; min-width: 7rem; }}
.words {{ text-align: left; }}
td.words {{ color: var(--faint); min-width: 11rem; }}
svg {{ width: 100%; height: auto; }}
.plot svg {{ min-width: 30rem; max-width: 50rem; }}
@media (max-width: 40rem) {{
  body {{ margin: 1rem auto; }}
  h1 {{ font-size: 1.5rem; }}
  table {{ font-size: .85rem; }}
  th, td {{ padding-right: .7rem; }}
  .folds, .folds tbody {{ display: block; }}
  .folds tr {{ display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--line); }}
  .folds th, .folds td {{ flex: 1 1 4rem; border: 0; }}
  .folds td.words {{ flex-basis: 100%; padding-top: 0; }}
  .folds th.words {{ display: none; }}
}}
pre {{ background: var(--field); padding: 1rem; overflow-x: auto; font-size: 13px; }}
.wide {{ overflow-x: auto; margin: .5rem 0 1rem; }}
.look {{ display: block; font: 11px system-ui, sans-serif; }}
.ink {{ fill: var(--ink); }} .faint {{ fill: var(--faint); }}
.card {{ fill: var(--card); }} .hole {{ fill: var(--hole); }} .ground {{ fill: var(--field); }}
.edge {{ fill: none; stroke: var(--faint); stroke-width: .7; stroke-dasharray: 2 2; }}
.clear {{ fill: transparent; }} .clear:hover, .card:hover {{ stroke: var(--ink); stroke-width: 1; }}
</style></head><body>
<h1>{title}</h1>
<p>{lead}</p>
{tables}
<div class="wide plot">{svg}</div>
{figures}
{details}
{sections}
</body></html>
"""


SHORT = 20
"""Characters of a number with its unit; what is longer is words."""

FOLDING = (3, 4, 5)
"""Columns of tables whose last one, of words, stands in a line of its own where the page is narrow."""


@dataclass(frozen=True)
class Section:
    """Drawings, each with a name (maybe none) above it."""

    heading: str
    lead: str
    drawings: Sequence[tuple[str, str]]
    """(name, inline SVG)."""


def page(
    title: str,
    lead: str,
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]],
    svg: str,
    sections: Sequence[tuple[str, str]],
    details: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]] = (),
    figures: Sequence[Section] = (),
) -> str:
    """Return the page as HTML text. `tables`, and `details` below the picture, are (header, rows),
    `sections` (heading, text as it stands), `figures` drawings of ours under a heading. The last column of a table is
    for words if a cell of it is long. Everything is escaped but `svg` (see `figures.for_page`) and the
    drawings, which are made of escaped text.
    """
    return _PAGE.format(
        title=html(title),
        lead=html(lead),
        tables="\n".join(_table(header, rows) for header, rows in tables),
        details="\n".join(_table(header, rows) for header, rows in details),
        svg=svg,
        figures="\n".join(map(_section, figures)),
        sections="\n".join(f"<h2>{html(heading)}</h2><pre>{html(text)}</pre>" for heading, text in sections if text),
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html(section.heading)}</h2><p>{html(section.lead)}</p>"]
    parts += [f"{f'<h3>{html(name)}</h3>' if name else ''}{drawing}" for name, drawing in section.drawings]
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; where it is wider than the page it is scrolled by itself."""
    words = any(len(row[-1]) > SHORT for row in rows)
    folds = ' class="folds"' if words and len(rows[0]) in FOLDING else ""
    lines = ([_cells("th", header, words)] if any(header) else []) + [_cells("td", row, words) for row in rows]
    return f'<div class="wide"><table{folds}>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def _cells(tag: str, row: Sequence[str], words: bool) -> str:
    kinds = ["number" if cell[:1].isdigit() else "" for cell in row]
    if words:
        kinds[-1] = "words"
    cells = zip(row, kinds, strict=True)
    return "".join(f"<{tag}{f' class={kind!r}' if kind else ''}>{html(cell)}</{tag}>" for cell, kind in cells)
