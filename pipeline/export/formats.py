"""Labelled segments in the formats of training tools. Knows the formats; decodes no audio.

Each writer reads the rows once and writes files into `target.staging`.
"""

import gzip
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.rows import ExportRow, ExportTarget
from pipeline.models.sensevoice.decoding import (
    EMOTION_TAGS,
    EVENT_TAGS,
    LANGUAGE_TAGS,
    TEXT_NORM_TAGS,
)
from pipeline.schema import FRAME, SAMPLE_RATE

_PARQUET_BYTES = 256 << 20  # of audio in one file
_ROW_GROUP = 200  # clips; the Hub's viewer reads whole row groups


def write_sensevoice(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`train.jsonl` as in FunAudioLLM/SenseVoice data/train_example.jsonl; needs clips.

    The split `test` goes to `test.jsonl`. Lengths are those of FunASR's sensevoice2jsonl.py:
    `source_len` in frames of 10 ms, `target_len` in words if there is a space, else in characters.
    FunASR's loader leaves out, without a message, clips longer than its max_token_length
    (finetune.sh: 2000, so 20 s).
    """
    with ExitStack() as stack:
        files: dict[str, TextIO] = {}
        for row in rows:
            if row.split not in files:
                path = target.staging / f"{row.split}.jsonl"
                files[row.split] = stack.enter_context(path.open("w", encoding="utf-8"))
            line = {
                "key": row.key,
                "text_language": LANGUAGE_TAGS[row.language],
                "emo_target": EMOTION_TAGS[row.emotion],
                "event_target": EVENT_TAGS[row.event],
                "with_or_wo_itn": TEXT_NORM_TAGS[row.itn],
                "target": row.text,
                "source": target.place(row),
                "target_len": len(row.text.split()) if " " in row.text else len(row.text),
                "source_len": row.n_samples // FRAME,
            }
            _write_line(files[row.split], line)


def write_nemo(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`manifest.jsonl` of NVIDIA NeMo; a relative path is relative to the manifest.

    https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
    """
    with (target.staging / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            interval = {
                "audio_filepath": row.clip if target.clips else row.uri,
                "offset": 0.0 if target.clips else row.start_s,
                "duration": row.duration_s,
            }
            _write_line(file, interval | _nemo_labels(row))


def _nemo_labels(row: ExportRow) -> dict[str, Any]:
    """`pred_text`, NeMo's name for a hypothesis, is the model's; `text` may be corrected."""
    said = {"text": row.text, "pred_text": row.model_text, "lang": row.language}
    return {**said, **_labels(row), "extra": dict(row.extra)}


def write_lhotse(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`recordings.jsonl.gz`, `supervisions.jsonl.gz` and `cuts.jsonl.gz`, one cut per segment.

    https://lhotse.readthedocs.io/en/latest/cuts.html. Labels are in `custom`, words in `alignment`.
    """
    with ExitStack() as stack:
        recordings, supervisions, cuts = (
            stack.enter_context(_open_gzip(target.staging / f"{name}.jsonl.gz"))
            for name in ("recordings", "supervisions", "cuts")
        )
        written = ""
        for row in rows:
            recording = _lhotse_recording(row, target)
            if recording["id"] != written:
                _write_line(recordings, recording)
                written = recording["id"]
            start_s = 0.0 if target.clips else row.start_s
            supervision = _lhotse_supervision(row, recording, start_s)
            _write_line(supervisions, supervision)
            _write_line(cuts, _lhotse_cut(row, recording, supervision, start_s))


def write_audiofolder(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`metadata.jsonl` beside the clips, as Hugging Face `datasets` reads an audiofolder.

    https://huggingface.co/docs/datasets/audio_dataset#audiofolder
    """
    with (target.staging / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            _write_line(file, {"file_name": row.clip} | _columns(row))


def write_parquet(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`data/{split}-*.parquet` with the clips inside, as Hugging Face `datasets` reads them.

    Removes the wav files of the clips after they are in a parquet file.
    """
    (target.staging / "data").mkdir()
    for number, batch in enumerate(_in_batches(rows)):
        clips = ((target.staging / row.clip).read_bytes() for row in batch)
        columns = [
            {"audio": {"bytes": clip, "path": row.clip}} | _columns(row)
            for clip, row in zip(clips, batch, strict=True)
        ]
        table = pa.Table.from_pylist(columns, _HUB)
        path = target.staging / "data" / f"{batch[0].split}-{number:05d}.parquet"
        pq.write_table(table, path, row_group_size=_ROW_GROUP, write_page_checksum=True)
        for row in batch:
            (target.staging / row.clip).unlink()


def write_kaldi(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """A Kaldi data directory. The rows must be sorted by utterance, as with LC_ALL=C.

    https://kaldi-asr.org/doc/data_prep.html. Speakers are those of the manifest's column `speaker`;
    as Kaldi wants it, their name begins the name of each of their utterances. An utterance without
    one is its own speaker.
    wav.scp reads every recording with ffmpeg, in any format. Kaldi passes that command to a shell,
    so the names in it are quoted.
    """
    names = ("text", "utt2spk", "utt2dur", "utt2lang", "utt2emotion", "utt2event", "utt2split")
    speakers: dict[str, list[str]] = defaultdict(list)
    recordings: dict[str, tuple[str, int]] = {}  # URI and audio stream, by name
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((target.staging / name).open("w", encoding="utf-8"))
            for name in (*names, "wav.scp" if target.clips else "segments")
        }
        for row in rows:
            utterance = row.utterance
            speakers[row.speaker or utterance].append(utterance)
            values = (
                *(" ".join(row.text.split()), row.speaker or utterance, f"{row.duration_s:.4f}"),
                *(row.language, row.emotion, row.event, row.split),
            )
            for name, value in zip(names, values, strict=True):
                files[name].write(f"{utterance} {value}".rstrip() + "\n")
            if target.clips:
                files["wav.scp"].write(f"{utterance} {target.place(row)}\n")
            else:
                interval = f"{row.start_s:.4f} {row.end_s:.4f}"
                files["segments"].write(f"{utterance} {row.name} {interval}\n")
                recordings[row.name] = row.uri, row.audio_stream
    spoken = (f"{speaker} {' '.join(speakers[speaker])}\n" for speaker in sorted(speakers))
    (target.staging / "spk2utt").write_text("".join(spoken), encoding="utf-8")
    if not target.clips:
        lines = (f"{name} {_kaldi_pipe(*recordings[name])}\n" for name in sorted(recordings))
        (target.staging / "wav.scp").write_text("".join(lines), encoding="utf-8")


def _labels(row: ExportRow) -> dict[str, Any]:
    return {
        "emotion": row.emotion,
        "event": row.event,
        "confidence": None if row.confidence is None else round(row.confidence, 4),
        "split": row.split,
    }


def _extra_json(row: ExportRow) -> str:
    """The manifest's columns as JSON: a column of `datasets` has one type in all rows."""
    return json.dumps(dict(row.extra), ensure_ascii=False, sort_keys=True)


def _columns(row: ExportRow) -> dict[str, Any]:
    return {
        "segment_id": row.segment_id,
        "recording_id": row.recording_id,
        "start_s": row.start_s,
        "end_s": row.end_s,
        "duration_s": row.duration_s,
        "text": row.text,
        "language": row.language,
        **_labels(row),
        "extra": _extra_json(row),
    }


_HUB_TYPES = {
    **dict.fromkeys(("segment_id", "recording_id"), "string"),
    **dict.fromkeys(("start_s", "end_s", "duration_s"), "float64"),
    **dict.fromkeys(("text", "language", "emotion", "event", "split", "extra"), "string"),
    "confidence": "float64",
}
_HUB_FEATURES = {
    "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
    **{name: {"dtype": kind, "_type": "Value"} for name, kind in _HUB_TYPES.items()},
}
# The metadata says to `datasets` that the struct is audio.
_HUB = pa.schema(
    [
        pa.field("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *(
            pa.field(name, pa.string() if kind == "string" else pa.float64())
            for name, kind in _HUB_TYPES.items()
        ),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _HUB_FEATURES}})},
)


def _in_batches(rows: Iterable[ExportRow]) -> Iterator[list[ExportRow]]:
    """Rows of one split each, with the clips of about one file."""
    batches: dict[str, list[ExportRow]] = defaultdict(list)
    n_bytes: Counter[str] = Counter()
    for row in rows:
        batches[row.split].append(row)
        n_bytes[row.split] += 2 * row.n_samples
        if n_bytes[row.split] >= _PARQUET_BYTES:
            yield batches.pop(row.split)
            n_bytes[row.split] = 0
    yield from batches.values()


def _open_gzip(path: Path) -> TextIO:
    return gzip.open(path, "wt", encoding="utf-8")


def _lhotse_recording(row: ExportRow, target: ExportTarget) -> dict[str, Any]:
    rate_hz, channels = (SAMPLE_RATE, 1) if target.clips else (row.sample_rate_hz, row.channels)
    n_samples = row.n_samples if target.clips else round(row.recording_end_s * rate_hz)
    uri = target.place(row) if target.clips else row.uri
    kind = "url" if "://" in uri else "file"
    return {
        "id": row.key if target.clips else row.name,
        "sources": [{"type": kind, "channels": list(range(channels)), "source": uri}],
        "sampling_rate": rate_hz,
        "num_samples": n_samples,
        "duration": n_samples / rate_hz,
        "channel_ids": list(range(channels)),
    }


def _lhotse_supervision(
    row: ExportRow, recording: Mapping[str, Any], start_s: float
) -> dict[str, Any]:
    channels = recording["channel_ids"]
    words = [
        [
            word["word"],
            round(word["start_s"] - row.start_s + start_s, 4),
            round(word["end_s"] - word["start_s"], 4),
            round(word["confidence"], 4),
        ]
        for word in row.words
    ]
    return {
        "id": row.key,
        "recording_id": recording["id"],
        "start": start_s,
        "duration": row.duration_s,
        "channel": channels if len(channels) > 1 else channels[0],
        "text": row.text,
        "language": row.language,
        "custom": {"segment_id": row.segment_id, **_labels(row), "extra": dict(row.extra)},
        "alignment": {"word": words},
    }


def _lhotse_cut(
    row: ExportRow, recording: Mapping[str, Any], supervision: Mapping[str, Any], start_s: float
) -> dict[str, Any]:
    aligned = [[word, at - start_s, *rest] for word, at, *rest in supervision["alignment"]["word"]]
    return {
        "id": row.key,
        "start": start_s,
        "duration": row.duration_s,
        "channel": supervision["channel"],
        # The times of a supervision are relative to its cut.
        "supervisions": [{**supervision, "start": 0.0, "alignment": {"word": aligned}}],
        "recording": recording,
        "type": "MultiCut" if len(recording["channel_ids"]) > 1 else "MonoCut",
    }


def _kaldi_pipe(uri: str, audio_stream: int) -> str:
    """The stream that was labelled, with its gaps as silence: as our decoder has it."""
    if "\n" in uri or uri.startswith("s3"):
        raise ValueError(f"{uri!r} cannot be named in wav.scp: use --audio clips")
    source = shlex.quote(uri)
    as_labelled = f"-map 0:a:{audio_stream} -af aresample=async=1 -ac 1 -ar {SAMPLE_RATE}"
    return f"ffmpeg -nostdin -loglevel error -i {source} {as_labelled} -f wav - |"


def _write_line(file: TextIO, value: Mapping[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
