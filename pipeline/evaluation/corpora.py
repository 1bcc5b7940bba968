"""Readers of references in the formats that people have. Knows files and names; scores nothing.

Which format a place holds is seen from what is in it; each reader is one small function.
"""

import csv
import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.evaluation.references import Reference, ReferenceSet, TimedWord
from pipeline.storage.address import is_uri
from pipeline.storage.redaction import public_uri, redact
from pipeline.storage.store import filesystem_for

# Names of columns: ours (the manifest's ref_*), SenseVoice's fine-tuning jsonl, and common ones.
_KEYS = ("recording_id", "key", "id", "utt", "path", "audio_filepath", "audio", "file_name", "wav")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "text_itn": ("ref_text_itn", "text_itn"),
    "text": ("ref_text", "text", "target", "sentence", "transcript", "transcription"),
    "language": ("ref_language", "language", "text_language", "lang", "locale"),
    "emotion": ("ref_emotion", "emotion", "emo_target"),
    "events": ("ref_events", "ref_event", "events", "event", "event_target"),
    "speaker": ("ref_speaker", "speaker", "speaker_id", "spk", "client_id"),
}
_RAVDESS = {"01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry"} | {
    "06": "fearful",
    "07": "disgusted",
    "08": "surprised",
}
_ESC50 = {"clapping", "laughing", "coughing", "crying_baby", "breathing", "sneezing"}
_RAVDESS_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")
_CREMA_NAME = re.compile(r"(\d{4})_[A-Z]{3}_(ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{2}")
_AISHELL_WIDE = {ord("\uff41") + n: ord("a") + n for n in range(26)}


def read_references(place: str, options: Mapping[str, Any] | None = None) -> ReferenceSet:
    """The references in a file or directory, local or in an object store. Raises ConfigError."""
    if not is_uri(place):
        return _read(place, Path(place))
    with tempfile.TemporaryDirectory(prefix="references-") as folder:
        name = PurePosixPath(place.rstrip("/")).name
        target = Path(folder) / name
        try:
            fs, path = filesystem_for(place, options)
            fs.get(path.rstrip("/"), str(target), recursive=bool(fs.isdir(path)))
        except (OSError, ValueError, ImportError) as error:
            shown = f"{public_uri(place)}: cannot be read as references: {error}"
            raise ConfigError(redact(shown)) from error
        return _read(place, target)


def _read(place: str, path: Path) -> ReferenceSet:
    if not path.exists():
        raise ConfigError(f"{place}: does not exist")
    found = ReferenceSet(place)
    reader = _reader_of(path)
    try:
        found.references.extend(reader(path, found))
    except (ValueError, KeyError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: cannot be read as references: {error}") from error
    if not found.references:
        raise ConfigError(f"{place}: holds no references")
    return found


def from_columns(key: str, row: Mapping[str, Any], found: ReferenceSet) -> Reference:
    """A reference from a row with columns of _NAMES; the other columns mean nothing here."""
    values = {
        field: next((row[name] for name in names if _has(row, name)), None)
        for field, names in _NAMES.items()
    }
    return Reference(
        key=key,
        text=_text(values["text"]),
        text_itn=_text(values["text_itn"]),
        language=found.label("language", values["language"]),
        emotion=found.label("emotion", values["emotion"]),
        events=_events(values["events"], found),
        speaker=str(values["speaker"] or ""),
        words=tuple(
            TimedWord(word["word"], float(word["start_s"]), float(word["end_s"]))
            for word in row.get("ref_words") or ()
        ),
        speech=tuple((float(a), float(b)) for a, b in row.get("ref_segments") or ()),
        channel=_channel(row, found),
    )


def _channel(row: Mapping[str, Any], found: ReferenceSet) -> int | None:
    """The column `channel`, from 1; a file of commas has it as text, pandas as 2.0."""
    said = str(row["channel"]).strip() if _has(row, "channel") else ""
    number = re.fullmatch(r"([1-9]\d*)(\.0)?", said)
    if said and not number:
        found.unmapped[f"channel: {said}"] += 1
    return int(number[1]) if number else None


def from_extra(
    recording_id: str, extra: Mapping[str, str], found: ReferenceSet
) -> Reference | None:
    """A reference from the manifest's own ref_* columns; None if it has none of them."""
    row: dict[str, Any] = {n: value for n, value in extra.items() if n.startswith("ref_")}
    row.pop("ref_words", None)
    row["ref_segments"] = _intervals(row.pop("ref_segments", ""))
    named = any(row.get(name) for names in _NAMES.values() for name in names)
    if not named and not row["ref_segments"]:
        return None
    if "speaker" in extra:
        row.setdefault("ref_speaker", extra["speaker"])
    return from_columns(recording_id, row, found)


def _intervals(text: str) -> list[tuple[float, float]]:
    """Where speech is, from a list in JSON: pairs, or objects with start_s and end_s.

    Lists travel as JSON in the map of the manifest's columns. What cannot be read says nothing.
    """
    try:
        parts = json.loads(text or "[]")
        return [
            (float(one["start_s"]), float(one["end_s"]))
            if isinstance(one, dict)
            else (float(one[0]), float(one[1]))
            for one in parts
        ]
    except (ValueError, TypeError, KeyError, IndexError):
        return []


_Reader = Callable[[Path, ReferenceSet], Iterator[Reference]]


def _reader_of(path: Path) -> _Reader:
    if path.is_dir():
        return _directory_reader(path)
    name = path.name.removesuffix(".gz")
    if name == "text" or name.endswith(".trans.txt"):
        return _read_kaldi
    if name.startswith("aishell_transcript"):
        return _read_aishell
    if name == "esc50.csv":
        return _read_esc50
    suffixes: Mapping[str, _Reader] = {
        ".jsonl": _read_jsonl,
        ".json": _read_jsonl,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
    }
    suffix = PurePosixPath(name).suffix
    if suffix not in suffixes:
        raise ConfigError(
            f"{path}: no reader for this name; references are .jsonl, .csv, .tsv, .parquet (also "
            ".gz), a Kaldi `text`, or a directory of LibriSpeech, AISHELL, Common Voice, ESC-50, "
            "RAVDESS, CREMA-D or ESD"
        )
    return suffixes[suffix]


def _directory_reader(path: Path) -> _Reader:
    if (path / "text").is_file():
        return lambda folder, found: _read_kaldi(folder / "text", found)
    if (path / "meta" / "esc50.csv").is_file():
        return lambda folder, found: _read_esc50(folder / "meta" / "esc50.csv", found)
    if (path / "supervisions.jsonl.gz").is_file():
        return lambda folder, found: _read_jsonl(folder / "supervisions.jsonl.gz", found)
    if next(path.rglob("*.trans.txt"), None):
        return _read_librispeech
    if aishell := next(path.rglob("aishell_transcript*.txt"), None):
        return lambda _, found: _read_aishell(aishell, found)
    if next(path.rglob("[0-9][0-9][0-9][0-9]/[0-9][0-9][0-9][0-9].txt"), None):
        return _read_esd
    return _read_names


def _read_jsonl(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """One JSON object a line; a Lhotse supervision where it has a recording_id and a start."""
    supervisions: dict[str, list[Mapping[str, Any]]] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        if "recording_id" in row and "start" in row and "duration" in row:
            supervisions.setdefault(str(row["recording_id"]), []).append(row)
        else:
            yield from_columns(_key(row, number), row, found)
    for recording_id, rows in supervisions.items():
        yield _of_supervisions(recording_id, rows, found)


def _of_supervisions(
    recording_id: str, rows: list[Mapping[str, Any]], found: ReferenceSet
) -> Reference:
    """Lhotse: https://lhotse.readthedocs.io/en/latest/corpus.html#supervision-manifest."""
    rows = sorted(rows, key=lambda row: float(row["start"]))
    custom: Mapping[str, Any] = rows[0].get("custom") or {}
    words = [
        TimedWord(str(word[0]), float(word[1]), float(word[1]) + float(word[2]))
        for row in rows
        for word in (row.get("alignment") or {}).get("word", ())
    ]
    return Reference(
        key=recording_id,
        text=" ".join(str(row.get("text") or "") for row in rows).strip(),
        language=found.label("language", rows[0].get("language")),
        emotion=found.label("emotion", custom.get("emotion")),
        events=_events(custom.get("event"), found),
        speaker=str(rows[0].get("speaker") or ""),
        words=tuple(words),
        speech=tuple(
            (float(row["start"]), float(row["start"]) + float(row["duration"])) for row in rows
        ),
    )


def _read_csv(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """A header and rows. Common Voice's .tsv has no quoting: a lone quote is a character."""
    text = io.StringIO("\n".join(_lines(path)))
    is_tsv = path.name.removesuffix(".gz").endswith(".tsv")
    rows = (
        csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if is_tsv
        else csv.DictReader(text)
    )
    for number, row in enumerate(rows, 2):
        yield from_columns(_key(row, number), row, found)


def _read_parquet(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    for number, row in enumerate(pq.read_table(path).to_pylist(), 1):
        yield from_columns(_key(row, number), row, found)


def _read_kaldi(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """`key text` a line: Kaldi's text, LibriSpeech's *.trans.txt."""
    for line in _lines(path):
        key, _, text = line.strip().partition(" ")
        if key:
            yield Reference(key, text=text.strip())


def _read_librispeech(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    for file in sorted(path.rglob("*.trans.txt")):
        for one in _read_kaldi(file, found):
            yield Reference(one.key, one.text, language="en", speaker=one.key.partition("-")[0])


def _read_aishell(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """AISHELL-1's transcript: words with spaces that are none, a few full-width letters."""
    for line in _lines(path):
        key, _, text = line.strip().partition(" ")
        if key:
            text = text.replace(" ", "").translate(_AISHELL_WIDE)
            yield Reference(key, text=text, language="zh", speaker=key[6:11])


def _read_esc50(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """https://github.com/karolpiczak/ESC-50. Classes that SenseVoice has no event for: no event."""
    for row in csv.DictReader(io.StringIO("\n".join(_lines(path)))):
        event = found.label("event", row["category"]) if row["category"] in _ESC50 else None
        yield Reference(row["filename"], events=(event,) if event else ())


def _read_esd(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """https://github.com/HLTSingapore/Emotional-Speech-Data: `id<TAB>text<TAB>emotion`.

    Speakers 0001 to 0010 speak Mandarin, 0011 to 0020 English.
    """
    for file in sorted(path.rglob("*.txt")):
        for line in _lines(file):
            fields = line.strip().split("\t")
            speaker = fields[0].partition("_")[0]
            if len(fields) == 3 and speaker.isdecimal():
                yield Reference(
                    fields[0],
                    text=fields[1],
                    language="zh" if int(speaker) <= 10 else "en",
                    emotion=found.label("emotion", fields[2]),
                    speaker=speaker,
                )


def _read_names(path: Path, found: ReferenceSet) -> Iterator[Reference]:
    """RAVDESS and CREMA-D say the emotion in the name of the file. RAVDESS's calm is unmapped."""
    for file in sorted(path.rglob("*.wav")):
        if match := _RAVDESS_NAME.fullmatch(file.stem):
            modality, channel, emotion, actor = match.groups()
            if (modality, channel) == ("03", "01"):
                label = found.label("emotion", _RAVDESS.get(emotion, emotion))
                yield Reference(file.stem, language="en", emotion=label, speaker=actor)
        elif match := _CREMA_NAME.fullmatch(file.stem):
            emotion_label = found.label("emotion", match[2])
            yield Reference(file.stem, language="en", emotion=emotion_label, speaker=match[1])


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.name.endswith(".gz") else data
    return data.decode("utf-8-sig").splitlines()


def _key(row: Mapping[str, Any], number: int) -> str:
    for name in _KEYS:
        if row.get(name):
            return str(row[name])
    raise ValueError(f"line {number} has none of the keys {', '.join(_KEYS)}")


def _has(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) is not None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _events(value: Any, found: ReferenceSet) -> tuple[str, ...] | None:
    """One event, or several: a list, or divided by commas, spaces or bars."""
    if value is None:
        return None
    parts = value if isinstance(value, list | tuple) else re.split(r"[,;\s/]+", str(value))
    n_unmapped = found.unmapped.total()
    labels = [found.label("event", part) for part in parts if str(part).strip()]
    known = tuple(dict.fromkeys(label for label in labels if label is not None))
    # An event that we have no label for is not the absence of all events, so it is not scored.
    return known if known or found.unmapped.total() == n_unmapped else None
