"""Manifests of other tools: which columns tell a format, and what its columns mean here.

Opens no file. Known are NeMo, SenseVoice and FunASR, Lhotse and Hugging Face's audiofolder; Kaldi's
directories are read by kaldi.py. What another tool knows of a recording keeps its meaning: a
transcript becomes `ref_text`, which `jobs evaluate` finds in `extra`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.arrow import Column
from pipeline.config import PROMPT_LANGUAGES, ManifestFormat
from pipeline.errors import ManifestError
from pipeline.manifest import lhotse
from pipeline.manifest.columns import KNOWN, own_names
from pipeline.storage.address import member_uri, quote_name

Json = Mapping[str, Any]

# Spellings of the languages that SenseVoice takes as a prompt, in lower case.
LANGUAGE_NAMES: Mapping[str, str] = {
    **{"en-us": "en", "zh-cn": "zh", "cmn": "zh", "zh-hk": "yue", "jp": "ja"},
    **{"chinese": "zh", "mandarin": "zh", "english": "en", "cantonese": "yue"},
    **{"japanese": "ja", "korean": "ko", "eng": "en", "jpn": "ja", "kor": "ko"},
}
_NO_LANGUAGE = ("", "auto", "unknown", "none", "nan", "n/a", "null")

_TEXT = ("text", "transcription", "transcript", "sentence")
_LANGUAGE = ("lang", "language", "locale")
_SPEAKER = ("speaker", "speaker_id", "client_id")


def _meaning(**theirs: Sequence[str]) -> Mapping[str, str]:
    """Their name -> ours."""
    return {name: ours for ours, names in theirs.items() for name in names}


@dataclass(frozen=True, slots=True)
class Format:
    """How the rows of a manifest become rows with our columns."""

    name: ManifestFormat
    title: str
    needs: Sequence[tuple[str, ...]]  # one of these sets of columns tells the format
    ours: Mapping[str, str]  # their column -> ours; of two with one meaning, the first is taken
    flatten: Callable[[Json], Json] | None = None  # of nested rows; raises ValueError
    takes_ids: bool = True  # whether recording_id, offset_s, duration_s mean here what they say

    def matches(self, names: Sequence[str]) -> bool:
        return any(set(needed) <= set(names) for needed in self.needs)

    def names(self, given: Sequence[str]) -> dict[str, str]:
        """Given name -> our name, for every column of a file or a row. Raises ManifestError."""
        if self.name == "table":
            return own_names(given)
        needed = {self.ours.get(name, name) for names in self.needs for name in names}
        kept = {
            name
            for name in given
            if name not in self.ours and self._is_kept(name) and name not in needed
        }
        renamed, taken = {}, set(kept)
        for name in [*(name for name in self.ours if name in given), *given]:
            if name in renamed:
                continue
            ours = self.ours.get(name, name if name in kept else f"source_{name}")
            renamed[name] = name if ours in taken and name not in KNOWN else ours
            taken.add(renamed[name])
        return {name: renamed[name] for name in given}

    def _is_kept(self, name: str) -> bool:
        return self.takes_ids or name not in KNOWN


_TABLE = Format("table", "a table with our columns", [("audio",)], {})


def _of_nemo(row: Json) -> Json:
    """A row of tarred NeMo names a member of audio_{shard_id}.tar, beside the manifest."""
    shard, name = row.get("shard_id"), row.get("audio_filepath")
    if not isinstance(shard, int) or not isinstance(name, str):
        return row
    rest = {key: value for key, value in row.items() if key != "shard_id"}
    return rest | {"audio_filepath": member_uri("tar", quote_name(name), f"audio_{shard}.tar")}


_NEMO = Format(
    "nemo",
    "a NeMo manifest",
    [("audio_filepath",)],
    _meaning(
        audio=["audio_filepath"],
        offset_s=["offset"],
        duration_s=["duration"],
        language=_LANGUAGE,
        ref_text=_TEXT,
        speaker=_SPEAKER,
        ref_emotion=["emotion"],
        ref_event=["event"],
    ),
    _of_nemo,
)
_AUDIOFOLDER = Format(
    "audiofolder",
    "the metadata of a Hugging Face audiofolder",
    [("file_name",)],
    _meaning(
        audio=["file_name"],
        language=_LANGUAGE,
        ref_text=_TEXT,
        speaker=_SPEAKER,
        ref_emotion=["emotion"],
        ref_event=["event"],
    ),
    takes_ids=False,  # a directory keeps the ids that it has without the metadata: its addresses
)


def _of_sensevoice(row: Json) -> Json:
    """A row of SenseVoice's fine-tuning jsonl or FunASR's; labels there are tags (<|zh|>)."""
    is_written = str(row.get("with_or_wo_itn")) == "<|withitn|>"
    target = "ref_text_itn" if is_written else "ref_text"
    return {target if name == "target" else name: value for name, value in row.items()}


_SENSEVOICE = Format(
    "sensevoice",
    "a SenseVoice or FunASR manifest",
    [("key", "source")],
    _meaning(
        audio=["source"],
        recording_id=["key"],
        language=["text_language"],
        ref_emotion=["emo_target"],
        ref_event=["event_target"],
    ),
    _of_sensevoice,
)
# What an archive says of its recordings: the .json and .txt of a WebDataset, columns of a parquet.
MEMBERS = replace(_AUDIOFOLDER, title="an archive", needs=[])
_LHOTSE = Format(
    "lhotse",
    "a Lhotse manifest",
    [("id", "sources"), ("id", "recording", "start"), ("id", "tracks"), ("id", "recording_id")],
    _meaning(recording_id=["id"]),
    lhotse.flatten,
)
_KALDI = Format("kaldi", "a Kaldi data directory", [], {})

_ALL = (_TABLE, _NEMO, _SENSEVOICE, _LHOTSE, _AUDIOFOLDER, _KALDI)


def choose(names: Sequence[str], wanted: ManifestFormat) -> Format:
    """The format of a file or of the row with these columns. Raises ManifestError.

    With "auto", a column `audio` makes it a table of ours, whatever else there is; so does a file
    that fits no format, whose columns are then explained by own_names and check_audio.
    """
    if wanted != "auto":
        return _named(names, wanted)
    if _TABLE.matches([name.strip("\ufeff \t\r\n").lower() for name in names]):
        return _TABLE
    return next((one for one in _ALL if one.matches(names)), _TABLE)


def _named(names: Sequence[str], wanted: str) -> Format:
    form = next(one for one in _ALL if one.name == wanted)
    if form.name == "table" or form.matches(names):
        return form
    if form.name == "kaldi":
        raise ManifestError(
            "manifest_format is kaldi, but this is not a wav.scp: name the directory of a wav.scp"
        )
    needed = " or ".join(" and ".join(map(repr, columns)) for columns in form.needs)
    found = ", ".join(repr(name[:200]) for name in names[:20]) or "none"
    fits = [one.name for one in _ALL if one.matches(names)]
    hint = f"; the columns are those of manifest_format {fits[0]}" if fits else ""
    raise ManifestError(
        f"manifest_format is {wanted}, which needs the column {needed}; found {found}{hint}"
    )


def describe(form: Format, names: Mapping[str, str]) -> list[str]:
    """A note that says how a file was understood, for the user to check; none for a table."""
    if form.name == "table":
        return []
    used = [f"{given!r} is {ours}" for given, ours in names.items() if given != ours]
    return [
        f"read as {form.title}"
        + (f": {', '.join(used)}" if used else "")
        + "; if that is wrong, set manifest_format"
    ]


def with_prompts(name: ManifestFormat, table: pa.Table) -> pa.Table:
    """A language that is no prompt of SenseVoice's moves to `ref_language`; the prompt is auto.

    A row of another tool must not fail because it is Danish. Tables of ours are left alone: there,
    an unknown language is a mistake, and a row with an error.
    """
    if name == "table" or "language" not in table.column_names or not table.num_rows:
        return table
    given: Column = table["language"].combine_chunks().cast(pa.string()).fill_null("")
    encoded = given.dictionary_encode()
    spelled = [_prompt_of(value) for value in encoded.dictionary.to_pylist()]
    index = table.column_names.index("language")
    prompts = pa.array([prompt for prompt, _ in spelled], pa.string()).take(encoded.indices)
    table = table.set_column(index, "language", prompts)
    others = pa.array([other for _, other in spelled], pa.string()).take(encoded.indices)
    if others.null_count == len(others) or "ref_language" in table.column_names:
        return table
    return table.append_column("ref_language", others)


def _prompt_of(value: str) -> tuple[str, str | None]:
    """(prompt, other language) of a value such as zh, zh-CN, <|zh|>, Chinese or da."""
    plain = value.strip().removeprefix("<|").removesuffix("|>").lower()
    plain = LANGUAGE_NAMES.get(plain, plain)
    plain = LANGUAGE_NAMES.get(plain.replace("_", "-"), plain)
    if plain in _NO_LANGUAGE:
        return "", None
    if plain in PROMPT_LANGUAGES:
        return plain, None
    base = plain.replace("_", "-").partition("-")[0]
    return (base, None) if base in PROMPT_LANGUAGES else ("", value)
