"""DuckDB for SQL that a person or another program wrote: it reads one snapshot and nothing else.

Such SQL could otherwise read any file of this machine, write files, and open connections. Tried
with DuckDB 2.0.1: tests/tables/test_locked_sql.py lists the statements that are refused.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.tables.snapshots import Snapshot, create_all_views

if TYPE_CHECKING:
    import duckdb

# lock_configuration is the last: after it, nothing can be set.
_LOCK = (
    "enable_external_access = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_community_extensions = false",
    "python_enable_replacements = false",  # SQL would see the variables of this program
    "lock_configuration = true",
)


@contextmanager
def connect_locked(
    snapshot: Snapshot, spill: Path | None = None, settings: Mapping[str, str] | None = None
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """DuckDB with the views of `tables.connect`, which can open only the files of this snapshot.

    What does not fit into memory goes to a directory of its own in `spill` (default: the directory
    for temporary files). DuckDB makes it when it is needed; it is deleted at the end. `settings`
    are further ones of DuckDB, such as memory_limit.
    """
    import duckdb

    private = str(Path(spill or tempfile.gettempdir(), f"sql-{uuid.uuid4().hex}"))
    try:
        with duckdb.connect() as connection:
            uris = create_all_views(connection, snapshot, read_only=True)
            connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, uris))}]")
            # The statement may read and write in this directory: hence one of its own.
            connection.execute(f"SET temp_directory = {_quoted(private)}")
            for name, value in (settings or {}).items():
                connection.execute(f"SET {name} = {_quoted(value)}")
            for setting in _LOCK:
                connection.execute(f"SET {setting}")
            yield connection
    finally:
        shutil.rmtree(private, ignore_errors=True)


def check_select(connection: "duckdb.DuckDBPyConnection", sql: str) -> None:
    """Raise ConfigError unless `sql` is one statement that only reads. Raises duckdb.Error, too."""
    import duckdb

    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        named = ", ".join(kind.name for kind in kinds)
        raise ConfigError(
            f"only one statement that reads can be run here (SELECT, FROM, WITH, VALUES, DESCRIBE, "
            f"SUMMARIZE, SHOW), not {named}; --unsafe runs any SQL, with the rights of your account"
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
