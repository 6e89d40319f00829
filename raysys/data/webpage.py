"""A page for people that needs no network: its shell, and the parts that the pages of datasets and runs share.

Whatever is put into a page is escaped unless it is `Html` already: texts from logs may be hostile.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from raysys.data.wording import printable


class Html(str):
    """A text that is HTML: made of literals and of what `text` returned."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return a value as HTML that shows it, control characters included; HTML stays as it is."""
    return value if isinstance(value, Html) else Html(escape(printable(str(value))))


def own_file(package: str, name: str) -> str:
    """Return the text of a file that travels with a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def shell(title: str, body: str, style: str, script: str, data: Mapping[str, Any]) -> str:
    """Return a whole page: everything in it is inlined, and scripts that are not its own are not run.

    `script` defines `draw`: of each kind of plot, a function from its data to [traces, layout] of plotly. `data` holds
    what it draws, by the name of the plot: NAME, or KIND-NAME where there are several of a kind. `title` is escaped
    here, `body` is HTML; `style` and `script` follow what all pages share.
    """
    here = "raysys.data"
    scripts = [get_plotlyjs(), f"{own_file(here, 'webpage.js')}\n{script}\ndrawAll();\n"]
    hashes = " ".join(f"'sha256-{_digest(own)}'" for own in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    facts = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{own_file(here, "webpage.css")}{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="facts">{facts}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def header(project: str, name: str, remark: str, facts: Mapping[str, str]) -> Html:
    """Return the head of a page: whose it is, when it was made, and what it is about by name; all of it is escaped."""
    told = "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>" for key, value in facts.items())
    return Html(
        f"<header><h1>{text(project)} <span>{text(name)}</span></h1><p>{text(remark)}</p><dl>{told}</dl></header>"
    )


def folded(summary: str, lines: str) -> Html:
    """Return lines of code under a summary that opens them; both are escaped."""
    shown = "\n".join(text(line) for line in lines.splitlines())
    return Html(f"<details><summary>{text(summary)}</summary><pre><code>{shown}</code></pre></details>")


def section(title: str, note: str, body: str, wide: bool = False) -> Html:
    """Return a card; title and note are escaped, the body is HTML."""
    about = f'<p class="note">{text(note)}</p>' if note else ""
    return Html(f"<section{' class=wide' if wide else ''}><h2>{text(title)}</h2>{about}{body}</section>\n")


def plot(name: str) -> Html:
    """Return the place of a plot."""
    return Html(f'<div class="plot" id="plot-{text(name)}"></div>')


def empty(remark: str) -> Html:
    """Return what stands where there is nothing to show; the remark is escaped."""
    return Html(f'<p class="empty">{text(remark)}</p>')


def tiles(shown: Iterable[tuple[str, str]]) -> Html:
    """Return (value, name) pairs as figures in a row; both are escaped."""
    parts = (f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for value, name in shown)
    return Html(f'<div class="tiles">{"".join(parts)}</div>')


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = (), kind: str = "") -> Html:
    """Return a table that scrolls in itself where it is too wide; cells are escaped. `kind` is its class."""
    kinds = dict.fromkeys(numeric, ' class="n"')
    head = "".join(f"<th{kinds.get(at, '')}>{text(name)}</th>" for at, name in enumerate(header))
    lines = ("".join(f"<td{kinds.get(at, '')}>{text(cell)}</td>" for at, cell in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    named = f' class="{kind}"' if kind else ""
    return Html(f'<div class="scroll"><table{named}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _digest(own: str) -> str:
    return base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
