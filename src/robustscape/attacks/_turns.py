"""Which rounds of which examples are searched next: those of an example count in their order, whoever is searched."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence

Turn = tuple[int, int]
"""An example's number and the number of one of its rounds."""


class Turns:
    """The rounds of all examples: begun, waiting, or not thought of yet.

    A round counts once all before it have failed. Where there is room, an example that has survived its first round is
    searched in several at once; what comes of the later ones is kept until it is their turn, or thrown away.

    Args:
        first: The round that each example begins with.
        rounds: How many rounds there are.
    """

    def __init__(self, first: Sequence[int], rounds: int) -> None:
        self.first, self.rounds = first, rounds
        self.now = list(first)
        """The round of each example whose turn it is."""
        self._begun = list(first)  # how many rounds have begun: the number of the next one
        self._waiting = deque(range(len(first)))
        self._going: set[int] = set()

    def started(self, count: int, spare: int = 0) -> list[Turn]:
        """Return up to ``count`` rounds whose turn it is, and, to ``spare`` in all, rounds ahead of theirs."""
        rows = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self._going.update(rows)
        made = [self._begin(row) for row in rows]
        if self._waiting or len(made) >= spare:
            return made
        ahead = [
            (self._begun[row], row)
            for row in self._going
            if self.now[row] > self.first[row] and self._begun[row] < self.rounds
        ]
        heapq.heapify(ahead)
        while ahead and len(made) < spare:
            number, row = heapq.heappop(ahead)
            made.append(self._begin(row))
            if number + 1 < self.rounds:
                heapq.heappush(ahead, (number + 1, row))
        return made

    def _begin(self, row: int) -> Turn:
        self._begun[row] += 1
        return row, self._begun[row] - 1

    def failed(self, row: int) -> bool:
        """Let the example's next round have its turn; return whether there is one."""
        self.now[row] += 1
        if self.now[row] >= self.rounds:
            return False
        if self.now[row] == self._begun[row]:
            self._waiting.append(row)
        return True

    def done(self, rows: Iterable[int]) -> None:
        """Forget examples that are settled."""
        self._going.difference_update(rows)
