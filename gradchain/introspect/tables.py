"""Tables as text of a given width, and as HTML."""

import html
import textwrap
from collections.abc import Sequence

GAP = "  "


KEPT = "\N{NO-BREAK SPACE}"
"""A blank at which no line is broken."""
LEAST = 22
"""The least width of a column of text."""


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, texts: int) -> list[str]:
    """Return the lines of a table of at most ``width`` characters.

    Args:
      titles: of the columns: a name, some texts, then others; the last is aligned to the right, the rest to the left.
      rows: cells. Names and texts are broken into several lines where they are too long, at newlines anyway.
      width: the table's.
      texts: how many columns of text there are.
    """
    needs = [max(map(_length, column)) for column in zip(titles, *rows, strict=True)]
    room = width - sum(needs[1 + texts :]) - len(GAP) * (len(titles) - 1)
    name = min(needs[0], room - LEAST * texts)
    widths = [name, *_shared(needs[1 : 1 + texts], room - name), *needs[1 + texts :]]
    body = [line for row in rows for line in _lines(row, widths)]
    return [_line(titles, widths), GAP.join("-" * size for size in widths), *body]


def _length(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _shared(needs: list[int], room: int) -> list[int]:
    """Return the widths of columns that share the room: what they need, or equal parts of what is left."""
    widths = list(needs)
    for done, i in enumerate(sorted(range(len(needs)), key=lambda i: needs[i])):
        widths[i] = min(needs[i], room // (len(needs) - done))
        room -= widths[i]
    return widths


def _lines(row: Sequence[str], widths: list[int]) -> list[str]:
    """Return the lines of one row, as many as its longest cell has."""
    wrapped = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
    height = max(map(len, wrapped))
    return [_line([cell[i] if i < len(cell) else "" for cell in wrapped], widths) for i in range(height)]


def _wrapped(cell: str, size: int) -> list[str]:
    lines = [line for part in cell.split("\n") for line in textwrap.wrap(part, size)]
    return [line.replace(KEPT, " ") for line in lines] or [""]


def _line(cells: Sequence[str], widths: list[int]) -> str:
    *left, right = zip(cells, widths, strict=True)
    return GAP.join([f"{cell:<{size}}" for cell, size in left] + [f"{right[0]:>{right[1]}}"]).rstrip()


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for notebooks."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def path_table(titles: Sequence[str], rows: list[list[str]], width: int, legends: Sequence[int]) -> list[str]:
    """Return the lines of a table of paths, and of legends where columns are too long.

    Args:
      titles: of the columns, paths first.
      rows: their cells.
      width: of the table; paths are cut in their middle where it is too small.
      legends: the columns that may become marks, explained below the table; the first of them first.
    """
    legend: list[str] = []
    for column, first in zip(legends, "1a", strict=False):
        if sum(_widths([titles, *rows])) + len(GAP) * (len(titles) - 1) > width:
            texts = [text for text in dict.fromkeys(row[column] for row in rows) if text]
            marks = {text: f"({_mark(first, i)})" for i, text in enumerate(texts)}
            rows = [[*row[:column], marks.get(row[column], ""), *row[column + 1 :]] for row in rows]
            legend = [*(f"{mark} {text}" for text, mark in marks.items()), *legend]
    widths = _widths([titles, *rows])
    widths[0] = max(10, min(widths[0], width - sum(widths[1:]) - len(GAP) * (len(titles) - 1)))
    lines = [_line([_cut(row[0], widths[0]), *row[1:]], widths) for row in (titles, ["-" * n for n in widths], *rows)]
    return lines + [line for text in legend for line in textwrap.wrap(text, width, subsequent_indent="    ")]


def _mark(first: str, i: int) -> str:
    """Return the number or letters of an entry of a legend."""
    if first.isdigit():
        return str(i + 1)
    return (_mark(first, i // 26 - 1) if i >= 26 else "") + chr(ord(first) + i % 26)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _cut(path: str, size: int) -> str:
    half = (size - 1) // 2
    return path if len(path) <= size else f"{path[:half]}…{path[half + 1 - size :]}"
