"""Rows of a query as dataclasses. Knows DuckDB; knows no table."""

from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import duckdb

Row = TypeVar("Row")
Item = TypeVar("Item")


def fetch(
    connection: "duckdb.DuckDBPyConnection", kind: type[Row], sql: str, parameters: Any = None
) -> list[Row]:
    """The rows of a query as dataclasses. Its columns are named as their fields."""
    answer = connection.execute(sql, parameters)
    names = [column[0] for column in answer.description or ()]
    return [kind(**dict(zip(names, row, strict=True))) for row in answer.fetchall()]


def take_in_turn(groups: Sequence[Sequence[Item]], n: int) -> list[Item]:
    """At most `n` items: the first of each group, then the second of each, and so on.

    So a rare group is shown, too.
    """
    in_turn = (each for turn in zip_longest(*groups) for each in turn if each is not None)
    return list(islice(in_turn, n))
