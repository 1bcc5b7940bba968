"""Error rates of texts: substitutions, deletions and insertions by units. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True, slots=True)
class Errors:
    """Edits that turn what was recognised into the reference, and the units of the reference."""

    substitutions: int = 0
    deletions: int = 0  # in the reference, not recognised
    insertions: int = 0
    n_units: int = 0

    @property
    def n_edits(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """None without reference units: insertions alone are no rate."""
        return self.n_edits / self.n_units if self.n_units else None

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.n_units + other.n_units,
        )


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """The fewest edits (Levenshtein 1966), of both sequences of units."""
    counts = {"replace": 0, "delete": 0, "insert": 0}
    for edit in Levenshtein.editops(reference, hypothesis):
        counts[edit.tag] += 1
    return Errors(counts["replace"], counts["delete"], counts["insert"], len(reference))


def total(errors: Iterable[Errors]) -> Errors:
    """The sum."""
    return sum(errors, Errors())


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an alignment: equal, replace, delete (only in the reference) or insert."""

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Piece]:
    """Both sequences side by side, for a person to read."""
    return [
        Piece(
            block.tag,
            tuple(reference[block.src_start : block.src_end]),
            tuple(hypothesis[block.dest_start : block.dest_end]),
        )
        for block in Levenshtein.opcodes(reference, hypothesis)
    ]
