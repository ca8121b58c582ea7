"""How a table's columns share the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence

GAP = 3
"""Characters between two columns."""


def blocks(least: Sequence[int], wanted: Sequence[int], *, width: int, keys: int = 1) -> list[dict[int, int]]:
    """Return the columns that stand beside each other, with the characters that each is given.

    All stand in one block where their least widths have room; else the rest follows below, in blocks that repeat
    the first columns.

    Args:
        least: Fewest characters of each column.
        wanted: Characters of each column that leave every line whole, at least ``least``.
        width: Characters in a line. A block is wider where two columns have no room in it.
        keys: How many of the first columns tell the rows apart, at least 1.
    """
    if len(least) <= keys:
        return [_shared(range(len(least)), least, wanted, width)]
    first = list(range(keys))
    found = [[*first, keys]]
    for place in range(keys + 1, len(least)):
        if _taken([*found[-1], place], least) > width:
            found.append(list(first))
        found[-1].append(place)
    return [_shared(places, least, wanted, width) for places in found]


def _taken(places: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[place] for place in places) + GAP * (len(places) - 1)


def _shared(places: Sequence[int], least: Sequence[int], wanted: Sequence[int], width: int) -> dict[int, int]:
    """Give the characters that are left to where the most lines would be, one at a time."""
    given = {place: least[place] for place in places}
    for _ in range(width - _taken(places, least)):
        narrow = max(places, key=lambda place: wanted[place] / given[place])
        if given[narrow] >= wanted[narrow]:
            break
        given[narrow] += 1
    return given
