"""Rows, units, label sets and stage names, from the manifest to the tables. Definitions only.

From the plan to the bundle, a row is one recording, or one window of a long recording, with its
segments nested in it. No stage splits or drops a row, so a silent or failed recording keeps its
row. Times are float64 seconds from the start of the audio file. Rows between stages have no nulls:
an absent string is "", because Ray turns an all-null column of a numpy batch into the string "nan".
"""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2  # raised when a column changes its type or meaning, not for a new column

SAMPLE_RATE = 16_000  # Hz, the rate of the waveforms that all models here take
FRAME = SAMPLE_RATE // 100  # 160 samples, 10 ms: the step of the log-mel features
FRAME_LENGTH = SAMPLE_RATE // 40  # 400 samples, 25 ms: the window of one feature frame
N_MELS = 80
FRAMES_PER_S = SAMPLE_RATE // FRAME  # 100
LFR_STACK = 7  # SenseVoice's low frame rate (LFR): 7 neighbouring frames are joined, ...
LFR_STEP = 6  # ... starting at every 6th frame: an LFR frame is 60 ms, as is a step of CTC
LFR_FRAME_S = LFR_STEP / FRAMES_PER_S
N_PROMPT_FRAMES = 4  # before the LFR frames of a clip: language, event, emotion, text normalisation

# The stages that a row passes, in this order. Progress, metrics and run records use them as keys.
STAGES = ("decode", "segment", "label", "write")

# Columns of the manifest with the text of a recording, for label.align; the first that is there.
TEXT_COLUMNS = ("text", "ref_text")

# The labels of SenseVoice's tags, in lower case and in the order of their token ids.
# https://github.com/FunAudioLLM/SenseVoice; "unknown" stands for EMO_UNKNOWN and Event_UNK.
LANGUAGES = ("zh", "en", "yue", "ja", "ko", "nospeech")
EMOTIONS = (
    "happy",
    "sad",
    "angry",
    "neutral",
    "fearful",
    "disgusted",
    "surprised",
    "other",
    "unknown",
)
EVENTS = (
    "speech",
    "bgm",
    "laughter",
    "applause",
    "cry",
    "sneeze",
    "breath",
    "cough",
    "sing",
    "speech_noise",
    "gbg",
    "unknown",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """An interval of speech or sound, in seconds from the start of its waveform."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def _struct(*fields: tuple[str, pa.DataType], nullable: tuple[str, ...] = ()) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=name in nullable) for name, kind in fields])


def _schema(*fields: tuple[str, pa.DataType], nullable: tuple[str, ...] = ()) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in fields])


WORD = _struct(
    ("word", pa.string()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("confidence", pa.float32()),
    # The middle of the frames in which CTC has it; start_s and end_s are their edges, or where the
    # word sounds (label.word_times). Null in older rows.
    ("peak_s", pa.float64()),
    nullable=("peak_s",),
)
LANGUAGE_PROBABILITIES = _struct(*((name, pa.float32()) for name in LANGUAGES))
EMOTION_PROBABILITIES = _struct(*((name, pa.float32()) for name in EMOTIONS))
EVENT = _struct(
    ("event", pa.string()),
    ("probability", pa.float32()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("source", pa.string()),  # "tag": the segment's own event tag; "inline": a tag inside the text
)

# One labelled segment, nested in a bundle row. tables/to_tables.py divides it over four tables.
LABELLED_SEGMENT = _struct(
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("text", pa.string()),
    ("rich_text", pa.string()),
    ("confidence", pa.float32()),  # mean top-1 probability of the text tokens; 0: no text
    # Null where there is no text or an older program wrote the bundle.
    ("confidence_frames", pa.float32()),  # geometric mean over all text frames, blanks too
    ("confidence_min", pa.float32()),  # of its least certain word
    ("n_tokens", pa.int32()),
    ("words", pa.list_(WORD)),
    ("itn", pa.bool_()),
    ("language", pa.string()),
    ("language_probability", pa.float32()),
    ("language_runner_up", pa.string()),
    ("language_runner_up_probability", pa.float32()),
    ("language_probabilities", LANGUAGE_PROBABILITIES),
    ("language_entropy", pa.float32()),  # nats
    ("emotion", pa.string()),
    ("emotion_probability", pa.float32()),
    ("emotion_runner_up", pa.string()),
    ("emotion_runner_up_probability", pa.float32()),
    ("emotion_probabilities", EMOTION_PROBABILITIES),
    ("emotion_entropy", pa.float32()),
    ("emotion_forced", pa.string()),  # the most probable emotion other than "unknown"
    ("events", pa.list_(EVENT)),
    nullable=("confidence_frames", "confidence_min"),
)

# How good a recording is, measured at the file's rate and channels (audio.meter.Measures), and how
# good a segment is (stages.quality). In flight NaN or "" is what cannot be measured; in the tables
# it is null.
MEASURE_FIELDS = (
    ("loudness_lufs", pa.float32()),  # ITU-R BS.1770-4, gated, of all channels
    ("loudness_range_lu", pa.float32()),  # EBU Tech 3342
    ("sample_peak_dbfs", pa.float32()),
    ("clipped_share", pa.float32()),  # of all values: those in runs of three at full scale
    ("dc_offset", pa.float32()),  # of the channel where it is largest; full scale 1
    ("channel_correlation", pa.float32()),  # of two channels; -1: one is inverted
    ("channel_difference_db", pa.float32()),  # how much louder the louder of two channels is
    ("bandwidth_hz", pa.float32()),
    ("bandwidth_drop_db", pa.float32()),  # how deep the spectrum falls there
    ("audio_sha256", pa.string()),  # of the decoded samples, int16, mono, 16 kHz
)
QUALITY_FIELDS = (
    ("loudness_lufs", pa.float32()),
    ("sample_peak_dbfs", pa.float32()),
    ("clipped_share", pa.float32()),
    ("snr_db", pa.float32()),  # -10 to 80
    ("snr_method", pa.string()),  # vad | floor
    ("noise_dbfs", pa.float32()),
    ("speech_s", pa.float64()),  # in which the VAD found speech
    ("chars_per_s", pa.float32()),  # letters and digits, per second of speech
    ("words_per_s", pa.float32()),
    ("unique_token_ratio", pa.float32()),  # different words among all
)
MEASURES = _struct(*MEASURE_FIELDS)
QUALITY = _struct(*QUALITY_FIELDS)

ERROR_FIELDS = (
    ("error_stage", pa.string()),  # "" | manifest | decode | segment | label
    ("error_type", pa.string()),
    ("error_message", pa.string()),
)

# A row of the plan: one recording that is still to do.
PLANNED_FIELDS = (
    ("recording_id", pa.string()),
    ("uri", pa.string()),
    ("offset_s", pa.float64()),  # where in the file the recording starts
    ("length_s", pa.float64()),  # length of the recording; 0: to the end of the file
    ("channel", pa.int32()),  # the only one that is wanted, from 1; 0: as audio.channels says
    ("language", pa.string()),  # the prompt: auto, zh, en, yue, ja, ko; "": as configured
    ("version", pa.string()),  # of the object in the store, when it was planned
    ("bytes", pa.int64()),
    ("start", pa.int64()),  # where the recording is in its archive (archives room); 0: unknown
    ("work_key", pa.string()),  # hash of recording, version and fingerprint
    ("supersedes", pa.string()),  # ledger state that this row replaces (manifest.keys); "": none
    ("attempts", pa.int32()),  # 1 for the first attempt
    ("extra", pa.map_(pa.string(), pa.string())),  # manifest columns that this program does not use
    *ERROR_FIELDS,
)
PLANNED = _schema(*PLANNED_FIELDS)

# What decoding adds. All windows of a recording have one `attempt_id`; the last has `n_windows`.
# Here `channel` is the one of the waveform, from 1; 0: all channels as one.
WINDOW_FIELDS = (
    *PLANNED_FIELDS,
    ("attempt_id", pa.string()),
    ("window_index", pa.int32()),
    ("n_windows", pa.int32()),  # 0 on every window but the last
    ("window_start_s", pa.float64()),
    ("duration_s", pa.float64()),  # seconds of audio that this window accounts for
    ("sample_rate_hz", pa.int32()),  # of the file, before resampling
    ("channels", pa.int32()),
    ("codec", pa.string()),
    ("warning", pa.string()),
    ("gap_s", pa.float64()),  # silence in place of gaps between packets, of the recording so far
    ("start_offset_s", pa.float64()),  # how much later the audio starts than the file's video
    ("audio_streams", pa.int32()),  # in the file
    ("audio_stream", pa.int32()),  # the one that was decoded, from 0; what FFmpeg calls 0:a:N
    ("measures", pa.list_(MEASURES)),  # one on the last window; empty: not measured
)
# The waveform is int16, one channel, at SAMPLE_RATE: half the bytes of float32. Rounding adds noise
# of 0.3 of a step, a third of the dither that FunASR adds by default.
WINDOW = _schema(
    *WINDOW_FIELDS,
    ("is_only", pa.bool_()),  # the recording is this window, or one such window of each channel
    ("levels", pa.large_binary()),  # float32 (n_hops, 3) of audio.meter; empty: not measured
    ("waveform", pa.large_binary()),
)

# Features of the segments only, one segment after the other: float32 (sum of n_frames, N_MELS).
SEGMENTED = _schema(
    *WINDOW_FIELDS,
    (
        "segments",
        pa.list_(
            _struct(
                ("start_s", pa.float64()),
                ("end_s", pa.float64()),
                ("n_frames", pa.int32()),
                ("is_silence", pa.bool_()),  # the VAD found no speech in it (segment.silence)
            )
        ),
    ),
    ("quality", pa.list_(QUALITY)),  # of each segment, without its text; empty: not measured
    ("features", pa.large_binary()),
)

BUNDLE = _schema(
    *WINDOW_FIELDS,
    ("labelled_s", pa.float64()),
    ("silence_s", pa.float64()),
    ("failed_s", pa.float64()),
    ("segments", pa.list_(LABELLED_SEGMENT)),
    ("quality", pa.list_(QUALITY)),  # of each segment; empty: not measured
)

_SEGMENT_KEYS = (
    ("recording_id", pa.string()),
    ("segment_id", pa.string()),  # f"{recording_id}-{index:06d}", index in time order
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
)

_CHANNEL = ("channel", pa.int32())  # of the file, from 1; null: all channels as one

TABLES: dict[str, pa.Schema] = {
    "transcripts": _schema(
        *_SEGMENT_KEYS,
        ("text", pa.string()),
        ("rich_text", pa.string()),
        ("language", pa.string()),
        ("confidence", pa.float32()),  # null without text
        ("n_tokens", pa.int32()),
        ("words", pa.list_(WORD)),
        ("itn", pa.bool_()),
        _CHANNEL,
        # Since schema 2; null in older rows, and without text.
        ("confidence_frames", pa.float32()),  # geometric mean over all text frames, blanks too
        ("confidence_min", pa.float32()),  # of its least certain word
        nullable=("confidence", "channel", "confidence_frames", "confidence_min"),
    ),
    "languages": _schema(
        *_SEGMENT_KEYS,
        ("language", pa.string()),
        ("probability", pa.float32()),
        ("runner_up", pa.string()),
        ("runner_up_probability", pa.float32()),
        ("probabilities", LANGUAGE_PROBABILITIES),
        ("entropy", pa.float32()),
        _CHANNEL,
        nullable=("channel",),
    ),
    "emotions": _schema(
        *_SEGMENT_KEYS,
        ("emotion", pa.string()),
        ("probability", pa.float32()),
        ("runner_up", pa.string()),
        ("runner_up_probability", pa.float32()),
        ("probabilities", EMOTION_PROBABILITIES),
        ("entropy", pa.float32()),
        ("emotion_forced", pa.string()),
        _CHANNEL,
        nullable=("channel",),
    ),
    "events": _schema(
        *_SEGMENT_KEYS,
        ("event", pa.string()),
        ("probability", pa.float32()),
        ("source", pa.string()),
        _CHANNEL,
        nullable=("channel",),
    ),
    "recordings": _schema(
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("offset_s", pa.float64()),
        ("version", pa.string()),
        ("status", pa.string()),  # ok | error
        *ERROR_FIELDS,
        ("warning", pa.string()),
        ("attempts", pa.int32()),
        ("duration_s", pa.float64()),
        ("labelled_s", pa.float64()),
        ("silence_s", pa.float64()),
        ("failed_s", pa.float64()),
        ("n_segments", pa.int32()),
        ("sample_rate_hz", pa.int32()),
        ("channels", pa.int32()),
        ("codec", pa.string()),
        ("bytes", pa.int64()),
        ("extra", pa.map_(pa.string(), pa.string())),
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("fingerprint", pa.string()),
        ("work_key", pa.string()),
        ("run_id", pa.string()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        # Since schema 1, code 2; null in the rows of older code.
        ("gap_s", pa.float64()),
        ("start_offset_s", pa.float64()),  # captions and exports of video add it
        ("audio_streams", pa.int32()),
        ("audio_stream", pa.int32()),
        # Since schema 2; null in older rows.
        ("member", pa.string()),  # the name in its archive
        _CHANNEL,  # the only one that was labelled; null: all, as one or each on its own
        # Channels that were labelled each on its own, all of which the seconds count; or 1.
        ("n_streams", pa.int32()),
        nullable=(
            *("gap_s", "start_offset_s", "audio_streams", "audio_stream", "member", "channel"),
            "n_streams",
        ),
    ),
    # Absent in the outputs of older programs, and of runs with quality.measure false.
    "measures": _schema(
        ("recording_id", pa.string()),
        ("version", pa.string()),  # of the audio, as in `recordings`
        *MEASURE_FIELDS,
        nullable=tuple(name for name, _ in MEASURE_FIELDS),
    ),
    "quality": _schema(
        *_SEGMENT_KEYS, *QUALITY_FIELDS, nullable=tuple(name for name, _ in QUALITY_FIELDS)
    ),
}
OPTIONAL_TABLES = ("measures", "quality")

# A person's correction of one interval of a recording: the newest revision of each. It belongs to
# the audio and not to a segment, so that it fits the labels of another model, too. `shown` is what
# the model said of it when it was reviewed.
LABELS_SHOWN = _struct(
    ("text", pa.string()),
    ("language", pa.string()),
    ("emotion", pa.string()),
    ("events", pa.list_(pa.string())),
)
REVIEWS = _schema(
    ("recording_id", pa.string()),
    _CHANNEL,
    ("version", pa.string()),  # of the audio, as in `recordings`
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("revision", pa.int32()),  # from 1
    ("verdict", pa.string()),  # right | fixed | unusable | unsure | withdrawn
    ("text", pa.string()),
    ("language", pa.string()),
    ("emotion", pa.string()),
    ("events", pa.list_(pa.string())),
    ("note", pa.string()),
    ("reviewer", pa.string()),
    ("saved_at", pa.timestamp("us", tz="UTC")),  # by the clock of the explorer's machine
    ("spent_s", pa.float64()),  # on this segment, as the page measured it
    ("sample", pa.string()),  # random: chosen by chance, so it tells accuracy without bias; or ""
    ("segment_id", pa.string()),  # what was shown, ...
    ("fingerprint", pa.string()),
    ("seq", pa.int64()),
    ("shown", LABELS_SHOWN),
    ("request_id", pa.string()),  # of the save: a save that is sent twice is made once
    nullable=("channel",),
)
VERDICTS = ("right", "fixed", "unusable", "unsure", "withdrawn")

# What the commit log keeps: the tables of each model, and the reviews, which belong to none.
LOGGED_TABLES: Mapping[str, pa.Schema] = ChainMap(TABLES, {"reviews": REVIEWS})
