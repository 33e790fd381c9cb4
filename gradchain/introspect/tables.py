"""Tables as text of a given width, and as HTML."""

import html
import textwrap
from collections.abc import Sequence

GAP = "  "


KEPT = "\N{NO-BREAK SPACE}"
"""A blank at which no line is broken."""
LEAST = 22
"""The least width of a column of text."""
LEAST_PATH = 10
"""The least width of a column of paths."""


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


def path_table(
    titles: Sequence[str], rows: list[list[str]], width: int, legends: Sequence[str], spared: Sequence[str] = ()
) -> list[str]:
    """Return the lines of a table of paths, and of legends where columns are too long.

    Args:
      titles: of the columns, paths first.
      rows: their cells.
      width: of the table; paths are cut in their middle where it is too small.
      legends: the columns that may become marks, explained below the table; the first of them first.
      spared: the columns that are left out where there is no room for them even so; the first of them first.
    """
    table, legend = [list(titles), *rows], dict[str, list[str]]()
    for title, first in zip(legends, "1a", strict=False):
        if title in titles and _needs(table) > width:
            column = titles.index(title)
            texts = [text for text in dict.fromkeys(row[column] for row in rows) if text]
            marks = {text: f"({_mark(first, i)})" for i, text in enumerate(texts)}
            table[1:] = [[*row[:column], marks.get(row[column], ""), *row[column + 1 :]] for row in table[1:]]
            legend[title] = [f"{mark} {text}" for text, mark in marks.items()]
    for title in spared:
        if title in titles and _needs([["", *row[1:]] for row in table]) + LEAST_PATH > width:
            column = table[0].index(title)
            table = [[*row[:column], *row[column + 1 :]] for row in table]
            legend.pop(title, None)
    widths = _widths(table)
    widths[0] = max(LEAST_PATH, min(widths[0], width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)))
    table.insert(1, ["-" * size for size in widths])
    lines = [_line([_cut(row[0], widths[0]), *row[1:]], widths) for row in table]
    explained = [text for title in reversed(legends) for text in legend.get(title, ())]
    return lines + [line for text in explained for line in textwrap.wrap(text, width, subsequent_indent="    ")]


def _needs(table: Sequence[Sequence[str]]) -> int:
    """Return how wide a table is."""
    widths = _widths(table)
    return sum(widths) + len(GAP) * (len(widths) - 1)


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
