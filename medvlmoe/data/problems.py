"""What is wrong with a site's files, collected, so that one reading names every malformed row and nothing is lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlmoe.errors import DataError


@dataclass(frozen=True)
class Problem:
    """One kind of mistake in one file.

    Attributes:
        path: the file.
        text: what is wrong and what is allowed instead.
        lines: the lines of the file that have it; empty if it is the file as a whole.
    """

    path: Path
    text: str
    lines: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Malformed rows; 1 for a file as a whole."""
        return max(1, len(self.lines))

    def each(self) -> Iterator[str]:
        """One line of text for each malformed row."""
        if not self.lines:
            yield f"{self.path}: {self.text}"
        for line in self.lines:
            yield f"{self.path} line {line}: {self.text}"


class Problems:
    """Takes down problems while files are read. Whoever reads them for use calls :meth:`refuse` at the end."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, path: Path, text: str, lines: Sequence[int] = ()) -> None:
        """Take one down."""
        self.found.append(Problem(path, text, tuple(int(line) for line in lines)))

    @property
    def count(self) -> int:
        """Malformed rows and files."""
        return sum(problem.count for problem in self.found)

    def refuse(self) -> None:
        """Stop here if anything was found.

        Raises:
            DataError: names the first malformed row, and how many more there are.
        """
        if not self.found:
            return
        more = self.count - 1
        rest = f" (and {more} more such rows; medvlmoe data check names them all)" if more else ""
        raise DataError(next(self.found[0].each()) + rest)
