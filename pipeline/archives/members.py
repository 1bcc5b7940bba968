"""The list of the members of an archive, while it is made and when it is done. Reads no file.

The files of a WebDataset sample stand side by side and share the beginning of their names, up to
the first dot: spk1/a.wav, spk1/a.json, spk1/a.txt. What the texts say belongs to the recordings of
their sample. https://github.com/webdataset/webdataset
"""

import json
import math
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.archives.endings import AUDIO_SUFFIXES
from pipeline.archives.streams import MOST_TEXT, Kind
from pipeline.storage.address import quote_name

MEMBERS = pa.schema(
    [
        ("name", pa.string()),  # quoted, and unique in its archive
        ("start", pa.int64()),  # where it is; what that means, its kind of archive knows
        ("bytes", pa.int64()),
        ("version", pa.string()),  # of the bytes; "": known only when they are read
        ("digest", pa.string()),  # the version by a hash of the bytes, where they have been read
        ("elsewhere", pa.string()),  # the path of a file that holds the bytes instead; or ""
        ("error", pa.string()),  # why it cannot be read; or ""
        ("fields", pa.map_(pa.string(), pa.string())),  # what the archive says of it
    ]
)
_TEXTS = (".json", ".txt", ".cls")


@dataclass(frozen=True, slots=True)
class Listing:
    """The recordings in an archive, in its order."""

    kind: Kind
    members: pa.Table  # schema MEMBERS
    skipped: Mapping[str, int] = field(default_factory=dict)  # what is no recording, by its ending
    damage: str = ""  # why the rest could not be read


def as_text(value: Any) -> str | None:
    """A value of JSON or of a column as text; None for null and NaN."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    return json.dumps(value, ensure_ascii=False, default=str)


class MemberList:
    """Takes the files of an archive in their order, and gives its listing."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._skipped: Counter[str] = Counter()
        self._n_with_name: dict[str, int] = {}
        self._key = ""
        self._first = 0  # row of the sample's first recording
        self._stems: list[str] = []  # of the sample's recordings
        self._texts: list[tuple[str, str, bytes]] = []  # (stem, ending, text) of the sample

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    def add_file(
        self,
        name: str,
        start: int,
        size: int,
        read: Callable[[], bytes],
        *,
        version: str = "",
        error: str = "",
    ) -> None:
        """A file; `read` gives its bytes, and is called for the texts of a sample only."""
        folder, base = posixpath.split(name)
        key, (stem, ending) = f"{folder}/{base.partition('.')[0]}", posixpath.splitext(name)
        ending = ending.lower()
        if key != self._key:
            self._end_sample()
            self._key = key
        if base.startswith("."):
            self._skipped["hidden"] += 1
        elif ending in AUDIO_SUFFIXES:
            self._stems.append(stem)
            self.add(name, start, size, version=version, error=error)
        elif ending in _TEXTS and size <= MOST_TEXT and not error:
            self._texts.append((stem, ending, read()))
        else:
            self.skip(ending)

    def add(
        self,
        name: str,
        start: int,
        size: int,
        *,
        version: str = "",
        elsewhere: str = "",
        error: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """A recording. Of two with one name the second is called NAME~2."""
        self._rows.append(
            {
                "name": self._unique(quote_name(name)),
                "start": start,
                "bytes": size,
                "version": version,
                "digest": "",
                "elsewhere": elsewhere,
                "error": error,
                "fields": dict(fields or {}),
            }
        )

    def skip(self, ending: str) -> None:
        """Count a file that is no recording."""
        is_kind = ending.isprintable() and 1 < len(ending) <= 10
        self._skipped[ending if is_kind else "others"] += 1

    def listing(self, kind: Kind, damage: str = "") -> Listing:
        """What was taken so far."""
        self._end_sample()
        members = pa.Table.from_pylist(self._rows, schema=MEMBERS)
        return Listing(kind, members, dict(self._skipped), damage)

    def _unique(self, name: str) -> str:
        n_before = self._n_with_name.get(name, 0)
        self._n_with_name[name] = n_before + 1
        return self._unique(f"{name}~{n_before + 1}") if n_before else name

    def _end_sample(self) -> None:
        """Give the texts of a sample to its recordings."""
        for stem, ending, data in self._texts:
            fields = self._fields(ending, data)
            same = [index for index, other in enumerate(self._stems) if other == stem]
            is_of_all = f"/{stem}".endswith(self._key) or len(self._stems) == 1
            for index in same or (range(len(self._stems)) if is_of_all else ()):
                known = self._rows[self._first + index]["fields"]
                known |= {name: text for name, text in fields.items() if name not in known}
            if not self._stems:
                self._skipped[ending] += 1
        self._texts, self._stems, self._first = [], [], len(self._rows)

    def _fields(self, ending: str, data: bytes) -> dict[str, str]:
        text = data.decode("utf-8", "replace").strip()
        if ending == ".txt":
            return {"text": text}
        if ending == ".cls":
            return {"cls": text}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            self._skipped["broken .json"] += 1
            return {}
        values = value if isinstance(value, dict) else {"json": value}
        texts = {name: as_text(one) for name, one in values.items()}
        return {name: text for name, text in texts.items() if text is not None}
