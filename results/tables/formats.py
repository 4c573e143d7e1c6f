"""Renderers of table layouts: Markdown, LaTeX (booktabs) and HTML.

Names and messages come from users and models, so each format escapes its own markup, and control characters never
reach a terminal. Markdown tables are split to fit 120 columns.
"""

import html
import re
import textwrap
from collections.abc import Callable

from crosstok.results.tables.table import Block, Entry, Layout

WIDTH = 120
"""Width of Markdown tables in characters."""
TIED = "≈"
FORMATS = ("md", "latex", "html", "csv", "json")


def render_layout(shown: Layout, form: str) -> str:
    """Return a layout as ``md``, ``latex`` or ``html``."""
    forms: dict[str, Callable[[Layout], str]] = {"md": _markdown, "latex": _latex, "html": _html}
    return forms[form](shown)


# Markdown


def _markdown(shown: Layout) -> str:
    parts = [f"**{_markdown_text(shown.title)}**"]
    for block in shown.blocks:
        pieces = [_markdown_block(piece) for piece in _split(block)]
        parts += [f"**{_markdown_text(block.title)}**", *pieces] if block.title else pieces
    lines = (textwrap.wrap(f"- {line}", WIDTH, subsequent_indent="  ") for line in _lines(shown, _markdown_text))
    parts.append("\n".join(piece for wrapped in lines for piece in wrapped))
    return "\n\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    """Return ``text`` on one line, with control characters replaced."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _markdown_text(text: str) -> str:
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", _one_line(text).replace("|", "\\|"))


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    text = f"**{text}**" if entry.best else text
    return text + (f" {TIED}" if entry.tied else "") + (_superscript(entry.note) if entry.note else "")


def _markdown_block(block: Block) -> str:
    cells = [[_markdown_text(name) for name in block.header]]
    cells += [[_markdown_entry(entry) for entry in row] for row in block.rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(block.header))]
    left = [place == 0 or place in block.prose for place in range(len(widths))]

    def line(row: list[str]) -> str:
        padded = (
            text.ljust(width) if flush else text.rjust(width)
            for text, width, flush in zip(row, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        f":{'-' * (width + 1)}" if flush else f"{'-' * (width + 1)}:" for width, flush in zip(widths, left, strict=True)
    )
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])


def _split(block: Block) -> list[Block]:
    """Return the block split into blocks that fit ``WIDTH``, each with the first column repeated."""
    widths = [
        max(len(_markdown_text(name)), *(len(_markdown_entry(row[place])) for row in block.rows)) + 3
        for place, name in enumerate(block.header)
    ]
    pieces: list[list[int]] = [[0]]
    for first in range(1, len(widths), block.together):
        group = list(range(first, min(first + block.together, len(widths))))
        if len(pieces[-1]) > 1 and sum(widths[place] for place in [*pieces[-1], *group]) + 1 > WIDTH:
            pieces.append([0])
        pieces[-1] += group
    return [
        Block(
            block.title,
            [block.header[place] for place in places],
            [[row[place] for place in places] for row in block.rows],
            frozenset(at for at, place in enumerate(places) if place in block.prose),
        )
        for places in pieces
    ]


def _superscript(number: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(number))


# LaTeX

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "|": r"\textbar{}", TIED: r"$\approx$",
    }
)  # fmt: skip


def _latex_text(text: str) -> str:
    return _one_line(text).translate(_LATEX)


def _latex_entry(entry: Entry) -> str:
    text = _latex_text(entry.text)
    text = rf"\textbf{{{text}}}" if entry.best else text
    return text + (r" $\approx$" if entry.tied else "") + (rf"\textsuperscript{{{entry.note}}}" if entry.note else "")


def _latex(shown: Layout) -> str:
    parts = ["% needs \\usepackage{booktabs}"]
    for block in (piece for whole in shown.blocks for piece in _split(whole)):
        columns = "".join("l" if not place or place in block.prose else "r" for place in range(len(block.header)))
        body = [r" & ".join(_latex_entry(entry) for entry in row) + r" \\" for row in block.rows]
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(block.title or shown.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_latex_text, block.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    lines = (rf"  \item {line}" for line in _lines(shown, _latex_text))
    return "\n".join([*parts, r"\begin{itemize}", *lines, r"\end{itemize}"]) + "\n"


# HTML


def _html_text(text: str) -> str:
    return html.escape(_one_line(text))


def _html_entry(entry: Entry) -> str:
    text = _html_text(entry.text)
    text = f"<strong>{text}</strong>" if entry.best else text
    return text + (f" {TIED}" if entry.tied else "") + (f"<sup>{entry.note}</sup>" if entry.note else "")


def _html_block(block: Block) -> str:
    head = "".join(f'<th scope="col">{_html_text(name)}</th>' for name in block.header)
    rows = []
    for row in block.rows:
        figures = "".join(
            f'<td class="prose">{_html_entry(entry)}</td>' if place in block.prose else f"<td>{_html_entry(entry)}</td>"
            for place, entry in enumerate(row[1:], 1)
        )
        rows.append(f'<tr><th scope="row">{_html_entry(row[0])}</th>{figures}</tr>')
    caption = f"<caption>{_html_text(block.title)}</caption>" if block.title else ""
    body = "\n".join(rows)
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _html(shown: Layout) -> str:
    """Return an HTML fragment without styles: the tables and the sentences below them."""
    lines = "\n".join(f"<li>{line}</li>" for line in _lines(shown, _html_text))
    return "\n".join([*map(_html_block, shown.blocks), f'<ul class="sentences">\n{lines}\n</ul>\n'])


def _lines(shown: Layout, escape: Callable[[str], str]) -> list[str]:
    """Return the lines below the tables, each passed through ``escape``."""
    notes = [f"{number}: {text}" for number, text in enumerate(shown.footnotes, 1)]
    return [escape(line) for line in [*shown.findings, *shown.notes, *notes]]
