"""Labelled segments in the formats of training tools. Knows the formats; decodes no audio.

Each writer reads the rows once and writes files into `target.staging`.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.columns import columns, in_batches, labels, write_line
from pipeline.export.rows import ExportRow, ExportTarget
from pipeline.models.sensevoice.decoding import (
    EMOTION_TAGS,
    EVENT_TAGS,
    LANGUAGE_TAGS,
    TEXT_NORM_TAGS,
)
from pipeline.schema import FRAME, SAMPLE_RATE

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
            write_line(files[row.split], line)


def write_nemo(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`manifest.jsonl` of NVIDIA NeMo; a relative path is relative to the manifest.

    Without clips it cannot name a channel: raises ValueError for a segment of one.

    https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html
    """
    with (target.staging / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            if row.channel and not target.clips:
                raise ValueError(
                    f"cannot name channel {row.channel} of {row.uri!r}; use --audio clips"
                )
            interval = {
                "audio_filepath": row.clip if target.clips else row.uri,
                "offset": 0.0 if target.clips else row.start_s,
                "duration": row.duration_s,
            }
            write_line(file, interval | _nemo_labels(row))


def _nemo_labels(row: ExportRow) -> dict[str, Any]:
    """`pred_text`, NeMo's name for a hypothesis, is the model's; `text` may be corrected."""
    said = {"text": row.text, "pred_text": row.model_text, "lang": row.language}
    return {**said, **labels(row), "extra": dict(row.extra)}


def write_audiofolder(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`metadata.jsonl` beside the clips, as Hugging Face `datasets` reads an audiofolder.

    https://huggingface.co/docs/datasets/audio_dataset#audiofolder
    """
    with (target.staging / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            write_line(file, {"file_name": row.clip} | columns(row))


def write_parquet(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`data/{split}-*.parquet` with the clips inside, as Hugging Face `datasets` reads them.

    Removes the wav files of the clips after they are in a parquet file.
    """
    (target.staging / "data").mkdir()
    for number, batch in enumerate(in_batches(rows, target.shard_bytes)):
        clips = ((target.staging / row.clip).read_bytes() for row in batch)
        rows_of_file = [
            {"audio": {"bytes": clip, "path": row.clip}} | columns(row)
            for clip, row in zip(clips, batch, strict=True)
        ]
        table = pa.Table.from_pylist(rows_of_file, _HUB)
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
    recordings: dict[str, tuple[str, int, int]] = {}  # URI, audio stream and channel, by name
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
                name = f"{row.name}-channel{row.channel}" if row.channel else row.name
                files["segments"].write(f"{utterance} {name} {interval}\n")
                recordings[name] = row.uri, row.audio_stream, row.channel
    spoken = (f"{speaker} {' '.join(speakers[speaker])}\n" for speaker in sorted(speakers))
    (target.staging / "spk2utt").write_text("".join(spoken), encoding="utf-8")
    if not target.clips:
        lines = (f"{name} {_kaldi_pipe(*recordings[name])}\n" for name in sorted(recordings))
        (target.staging / "wav.scp").write_text("".join(lines), encoding="utf-8")


_HUB_TYPES = {
    **dict.fromkeys(("segment_id", "recording_id"), "string"),
    **dict.fromkeys(("start_s", "end_s", "duration_s"), "float64"),
    "channel": "int32",
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
        *(pa.field(name, pa.type_for_alias(kind)) for name, kind in _HUB_TYPES.items()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _HUB_FEATURES}})},
)


def _kaldi_pipe(uri: str, audio_stream: int, channel: int) -> str:
    """The stream that was labelled, with its gaps as silence: as our decoder has it."""
    if "\n" in uri or uri.startswith("s3"):
        raise ValueError(f"{uri!r} cannot be named in wav.scp: use --audio clips")
    source = shlex.quote(uri)
    filters = "aresample=async=1" + (f",pan=mono|c0=c{channel - 1}" if channel else "")
    as_labelled = f"-map 0:a:{audio_stream} -af {shlex.quote(filters)} -ac 1 -ar {SAMPLE_RATE}"
    return f"ffmpeg -nostdin -loglevel error -i {source} {as_labelled} -f wav - |"
