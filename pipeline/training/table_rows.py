"""Rows with labels from an output of `jobs label`: reviews, or the labels of the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.export.reviewed import needs_reviews
from pipeline.export.rows import ExportRow, read_rows, select_rows
from pipeline.models.sensevoice.decoding import EMOTION_TAGS, EVENT_TAGS
from pipeline.tables import open_snapshot
from pipeline.tables.locked_sql import connect_locked
from pipeline.tables.review_table import create_review_views, current_reviews
from pipeline.training.rows import TrainingRow
from pipeline.training.settings import TableRows


def read_table_rows(chosen: TableRows, options: Mapping[str, Any]) -> Iterator[TrainingRow]:
    """The segments that `chosen` selects, in the order of recordings and time.

    Raises ConfigError if the condition is no SQL, or selects nothing; StoreError.
    """
    import duckdb

    snapshot = open_snapshot(chosen.root, options)
    n_rows = 0
    with connect_locked(snapshot) as connection:
        try:
            if needs_reviews(chosen.reviewed, chosen.test_share):
                create_review_views(connection, current_reviews(snapshot.store, snapshot.state))
            select_rows(connection, chosen.where, chosen.reviewed, chosen.test_share)
        except duckdb.Error as error:
            raise ConfigError(
                f"data: {chosen.where!r} is not an SQL condition on the view segments: {error}"
            ) from error
        for row in read_rows(connection):
            if row.split == chosen.split:
                n_rows += 1
                yield _row(row)
    if not n_rows:
        raise ConfigError(
            f"{chosen.root}: no segment with reviewed={chosen.reviewed}, split={chosen.split} and "
            f"where={chosen.where!r}; review some in `jobs explore`, or choose others"
        )


def _row(row: ExportRow) -> TrainingRow:
    return TrainingRow(
        key=row.key,
        uri=row.uri,
        start_s=row.start_s,
        length_s=row.duration_s,
        text=row.text,
        language=row.language,
        emotion=EMOTION_TAGS[row.emotion],
        event=EVENT_TAGS[row.event],
        itn=row.itn,
        speaker=row.speaker,
        channel=row.channel,
    )
