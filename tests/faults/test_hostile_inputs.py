"""The 54 hostile inputs, by their numbers in the specification: each gives a row or an error.

Every input is made here, written to a directory or a bucket, listed in a manifest and processed by
the real stages without Ray: manifest, plan, decode, silero, the demo model. The expected result is
written beside it: "ok", "ok: part of the warning", "stage/ErrorType", or "refused: part of the
message" for a manifest that starts no run. Comments mark results that differ from the
specification.
"""

import gzip
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.config import AudioConfig, LabelConfig, RunConfig, SegmentConfig
from pipeline.errors import ManifestError
from pipeline.manifest import files as manifest_files
from pipeline.manifest.read import read_manifest
from pipeline.models.sensevoice.model import SenseVoice, load_sensevoice
from pipeline.models.vad.load import load_vad
from pipeline.planning.plan import make_plan
from pipeline.schema import BUNDLE, TABLES
from pipeline.stages.decode import decode_recordings
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.storage.store import filesystem_for
from tests.support.demo import AUDIO, MODEL
from tests.support.s3_server import S3
from tests.support.sounds import encode, float_wav, noise, silence, tone, wav

ROOT = Path(__file__).parents[2]
Row = dict[str, Any]
Make = Callable[[Path], Any]


@cache
def stages() -> tuple[FindSegments, LabelSegments]:
    def model() -> SenseVoice:
        return load_sensevoice(RunConfig(manifest="m", output="o", model=str(MODEL)))

    segment = SegmentConfig()
    find = FindSegments(lambda: load_vad("silero", segment), segment)
    return find, LabelSegments(model, LabelConfig())


def label(
    source: str,
    options: Mapping[str, Any] | None = None,
    audio: AudioConfig | None = None,
    **allowed: Any,
) -> list[Row]:
    """The bundle rows of a manifest: one per recording (or window), in order."""
    options = options or {}
    manifest = read_manifest(source, options, **allowed)
    plan = make_plan(manifest, TABLES["recordings"].empty_table(), "f", options)
    decode = partial(decode_recordings, config=audio or AudioConfig(), options=options, run_id="r")
    find_segments, label_segments = stages()
    windows = [segmented for window in decode(plan.todo) for segmented in find_segments(window)]
    rows = label_segments(pa.concat_tables(windows)) if windows else BUNDLE.empty_table()
    assert rows.schema.equals(BUNDLE)
    return list(rows.to_pylist(maps_as_pydicts="strict"))


def result_of(row: Row) -> str:
    """The result of a row, written as in the cases."""
    balance = row["labelled_s"] + row["silence_s"] + row["failed_s"] - row["duration_s"]
    assert abs(balance) < 1e-6
    if row["error_stage"]:
        assert row["error_message"]
        return f"{row['error_stage']}/{row['error_type']}"
    warning = warning_of(row)
    return f"ok: {warning}" if warning else "ok"


def warning_of(row: Row) -> str:
    """What is odd about the file. That a tone has no speech in it is another matter."""
    warnings = row["warning"].split("; ")
    return "; ".join(one for one in warnings if not one.startswith("no segment found"))


def check(rows: Sequence[Row], wanted: Sequence[str]) -> None:
    ends = [result_of(row) for row in rows]
    assert len(ends) == len(wanted), ends
    for end, want in zip(ends, wanted, strict=True):
        assert end == want if want == "ok" else end.startswith(want.split(": ")[0]), ends
        assert want.split(": ")[-1] in end, ends


# ----------------------------------------------------------------- 1-34: one file each


def cut(kind: str, share: float) -> bytes:
    data = encode(noise(6), kind)
    return data[: int(len(data) * share)]


def patched(data: bytes, start: int, patch: bytes) -> bytes:
    return data[:start] + patch + data[start + len(patch) :]


def two_sounds() -> bytes:
    """A container with two audio streams, of 1 s and of 2 s."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=16_000) for _ in range(2)]
        for stream, seconds in zip(streams, (1, 2), strict=True):
            samples = np.zeros((1, 16_000 * seconds), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return out.getvalue()


def silent_film() -> bytes:
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame(32, 32, "yuv420p")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


_SPEECH = AUDIO / "en_happy.mp3"
_XML = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
_LOUD = np.tile(np.array([3e29, -3e29]), 8000)
_SPIKE = np.concatenate([np.full(8000, 0.1), [np.nan], np.full(8000, 0.1)])

FILES: list[tuple[str, Callable[[], bytes], str]] = [
    ("01 zero bytes", lambda: b"", "decode/EmptyFile"),
    ("02 one byte", lambda: b"\0", "decode/NotAudio"),
    ("03 wav without samples", lambda: wav(b""), "decode/NoSamples"),
    ("04 header cut", lambda: encode(tone(1))[:20], "decode/Undecodable"),
    ("05 mp3 cut in half", lambda: cut("mp3", 0.5), "decode/Truncated"),
    ("05 mp3 cut a little", lambda: cut("mp3", 0.95), "ok: that the file declares"),
    ("06 flac cut", lambda: cut("flac", 0.5), "decode/Truncated"),
    # An Ogg file does not declare its length, so the rest is labelled, with a warning.
    ("07 ogg cut", lambda: cut("ogg", 0.5), "ok: may be cut"),
    ("08 wav of an odd byte count", lambda: wav(bytes(32_000)) + b"\0", "ok"),
    ("08 and a header that counts it", lambda: wav(bytes(32_001)), "ok"),
    ("09 wav called mp3", lambda: encode(tone(1)), "ok"),
    ("09 mp3 called wav", lambda: encode(tone(1), "mp3"), "ok"),
    ("10 NaN", lambda: float_wav(_SPIKE), "decode/NonFinite"),
    ("11 infinity", lambda: float_wav(np.full(16_000, np.inf)), "decode/NonFinite"),
    ("12 peak of 3e29", lambda: float_wav(_LOUD), "decode/OutOfRange"),
    ("13 rate 0", lambda: wav(bytes(2000), rate_hz=0), "decode/Undecodable"),
    (
        "13 rate 2^32-1",
        lambda: patched(wav(bytes(2000)), 24, b"\xff" * 4),
        "decode/",  # Undecodable or BadRate, depending on the version of the decoder
    ),
    ("14 rate 1 Hz", lambda: wav(bytes(2000), rate_hz=1), "decode/BadRate"),
    ("15 384 kHz", lambda: wav(bytes(768_000), rate_hz=384_000), "ok"),
    ("16 no channels", lambda: wav(bytes(2000), channels=0), "decode/Undecodable"),
    (
        "16 65535 channels",
        lambda: patched(wav(bytes(200_000)), 22, b"\xff\xff"),
        "decode/",  # Undecodable or TooManyChannels
    ),
    ("17 8 channels", lambda: encode(tone(1, channels=8)), "ok"),
    ("18 no bits", lambda: wav(bytes(2000), bits=0), "decode/Undecodable"),
    (
        "19 header claims 4 GB",
        lambda: patched(encode(tone(1)), 40, struct.pack("<I", 0xFFFFFF00)),
        "ok: WAV header is wrong",
    ),
    ("20 silence", lambda: encode(silence(2)), "ok"),
    ("21 DC only", lambda: float_wav(np.full(16_000, 0.5)), "ok"),
    ("21 clipped", lambda: wav((np.sign(tone(1)) * 32767).astype("<i2").tobytes()), "ok"),
    ("22 one sample", lambda: wav(bytes(2)), "decode/TooShort"),
    ("22 10 ms", lambda: encode(tone(0.01)), "decode/TooShort"),
    # Streaming and memory: see tests/stages. Here the limit is checked against the header.
    ("23 longer than allowed", lambda: encode(silence(1900), "flac"), "decode/TooLong"),
    ("24 longer than allowed, undeclared", lambda: encode(silence(1900), "aac"), "decode/TooLong"),
    ("25 HTML", lambda: b"<!DOCTYPE html><html><title>404", "decode/NotAudio: looks like HTML"),
    ("26 S3 error document", lambda: _XML, "decode/NotAudio"),
    ("27 random bytes", lambda: np.random.default_rng(2).bytes(50_000), "decode/NotAudio"),
    ("28 gzip of a wav", lambda: gzip.compress(encode(tone(1))), "decode/NotAudio"),
    (
        "29 two mp3 in one, then garbage",
        lambda: encode(tone(2), "mp3") * 2 + np.random.default_rng(0).bytes(400),
        "ok",  # all four seconds; libsndfile would stop after two
    ),
    (
        "30 ID3 tag of 256 MB",
        lambda: b"ID3\4\0\0\x7f\x7f\x7f\x7f" + encode(tone(1), "mp3"),
        "decode/Undecodable",
    ),
    *(
        (f"31 {kind}", partial(encode, tone(1), kind), "ok")
        for kind in ("ulaw", "adpcm", "wav24", "rf64", "aiff")
    ),
    # The decoder depends only on the bytes, so the fingerprint does not need its name.
    ("32 opus", lambda: encode(tone(2), "opus"), "ok"),
    ("34 film with sound", lambda: encode(tone(1), "mp4"), "ok"),
    ("34 film without sound", silent_film, "decode/NoAudioStream"),
    ("34 two audio streams", two_sounds, "ok"),
]


@pytest.mark.parametrize(("name", "make", "wanted"), FILES, ids=[name for name, _, _ in FILES])
def test_a_hostile_file(name: str, make: Callable[[], bytes], wanted: str, tmp_path: Path) -> None:
    suffix = "mp3" if "called mp3" in name else "wav"
    (tmp_path / f"x.{suffix}").write_bytes(make())
    limits = AudioConfig(max_duration_s=1800)
    row, *others = label(str(tmp_path), audio=limits)
    assert not [other for other in others if other["error_stage"]]
    want, _, words = wanted.partition(": ")
    assert result_of(row).startswith(want)
    assert words in row["error_message"] + row["warning"]
    if wanted == "ok":
        assert not warning_of(row) or name.startswith("29")
    if name.startswith("34 two"):
        assert row["duration_s"] == 1.0  # the first stream
    if name.startswith("29"):
        assert row["duration_s"] == pytest.approx(4, abs=0.2)
    if name.startswith(("20", "21 DC")):
        assert (row["segments"], row["silence_s"]) == ([], row["duration_s"])


def test_33_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "directory.wav").mkdir()
    (tmp_path / "list.csv").write_text("audio\npipe.wav\nloop.wav\ndirectory.wav\n/dev/zero\n")
    ends = ["decode/NotAFile", "decode/FileMissing", "decode/NotAFile", "manifest/NotAllowed"]
    check(label(str(tmp_path / "list.csv")), ends)
    ends[-1] = "decode/NotAFile"
    check(label(str(tmp_path / "list.csv"), allowed_roots=["/"]), ends)


# ----------------------------------------------------- 35-52: rows, addresses, manifests


@dataclass(frozen=True, slots=True)
class Case:
    """A manifest (bytes, or rows of JSON) next to a.wav of 2 s, and the results of its rows."""

    name: str
    manifest: bytes | str | Sequence[Row]
    ends: Sequence[str] = ()  # ["refused"]: the manifest raises an error
    words: str = ""  # part of each message
    allowed: Mapping[str, Any] = field(default_factory=dict)


def parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


A = {"audio": "a.wav"}
_WEB = {"allow_http": True}
_METADATA = "http://169.254.169.254/latest/meta-data/"
CASES = [
    Case("35 file URI", [{"audio": "file:///etc/passwd"}], ["manifest/NotAllowed"], "/etc/passwd"),
    Case("35 dots", [{"audio": "../../../../etc/passwd"}], ["manifest/NotAllowed"]),
    Case("35 escaped dots", [{"audio": "%2e%2e/%2E%2e/x.wav"}], ["manifest/NotAllowed"]),
    Case("35 another bucket", [{"audio": "s3://other/a.wav"}], ["manifest/NotAllowed"]),
    Case(
        "35 text that is allowed is not echoed",
        [{"audio": "/etc/passwd"}],
        ["decode/NotAudio"],
        "looks like text",
        {"allowed_roots": ["/etc"]},
    ),
    Case("36 metadata service", [{"audio": _METADATA}], ["manifest/NotAllowed"], "http(s) is off"),
    Case("36 http on", [{"audio": _METADATA}], ["decode/NotAllowed"], "private address", _WEB),
    Case("36 localhost", [{"audio": "http://localhost:9/a"}], ["decode/NotAllowed"], "", _WEB),
    Case("36 a number", [{"audio": "http://2130706433:9/a"}], ["decode/"], "", _WEB),
    # Redirects, and names whose address changes: tests/storage/test_http_guard.py.
    Case("37 ftp", [{"audio": "ftp://host/a.wav"}], ["manifest/NotAllowed"]),
    Case("37 gopher", [{"audio": "gopher://host/a.wav"}], ["manifest/BadUri"]),
    Case("37 data", [{"audio": "data:audio/wav;base64,AAAA"}], ["manifest/BadUri"]),
    Case("37 pipes", [{"audio": "cat a.wav |"}, {"audio": "|id"}], ["manifest/BadUri"] * 2),
    Case("37 a pipe inside is a name", [{"audio": "a.wav|touch x"}], ["decode/FileMissing"]),
    Case("37 chain", [{"audio": "zip://a.wav::s3://b/c.zip"}], ["manifest/NotAllowed"]),
    Case(
        "38 newline, NUL", [{"audio": "a\n.wav"}, {"audio": "a\0"}], ["manifest/BadManifestRow"] * 2
    ),
    Case("40 repeated rows", [A, A, A], ["ok"]),
    # The specification refuses the run. Here the first keeps the id; the others are error rows.
    Case(
        "41 one id, two files",
        [A | {"recording_id": "x"}, {"audio": "b.wav", "recording_id": "x"}],
        ["ok", "manifest/DuplicateId"],
    ),
    Case("42 one file, two ranges", [A | {"duration_s": 1}, A | {"offset_s": 1}], ["ok", "ok"]),
    Case(
        "43 impossible ranges",
        [A, A | {"offset_s": -1}, A | {"duration_s": 0}, A | {"duration_s": -3}],
        ["ok", *["manifest/BadRange"] * 3],
    ),
    Case(
        "43 NaN",
        parquet(pa.table({"audio": ["a.wav"], "offset_s": [float("nan")]})),
        ["manifest/BadRange"],
    ),
    Case("44 beyond the end", [A | {"offset_s": 9}], ["decode/BadRange"], "beyond the end at 2"),
    Case("44 over the end", [A | {"offset_s": 1, "duration_s": 9}], ["ok: after the file"]),
    # Milliseconds instead of seconds: the row has an error message with the range.
    Case("45 milliseconds", [A | {"offset_s": 500.0}], ["decode/BadRange"], "beyond the end"),
    Case("46 no audio column", "path\na.wav\n", ["refused"], "rename 'path'"),
    Case("46 only a header", "audio\n", []),
    # An empty file has no header: a failed upload looks like this.
    Case("46 zero bytes", "", ["refused"], "empty"),
    Case("47 comma for a point", [A | {"offset_s": "0,5"}], ["manifest/BadManifestRow"], "'0,5'"),
    Case("47 nested", [A | {"duration_s": {"a": 1}}], ["manifest/BadManifestRow"]),
    Case("47 text for a number", [A | {"offset_s": "0.5"}], ["ok"]),
    Case("48 BOM and CRLF", b"\xef\xbb\xbfaudio,x\r\na.wav,1\r\n", ["ok"]),
    Case("48 quotes with newlines", 'audio,x\na.wav,"one\ntwo, ""three"""\n', ["ok"]),
    Case("48 semicolons", "audio;x\na.wav;1\n", ["ok"]),
    Case("48 latin-1", "audio\ncafé.wav\n".encode("latin-1"), ["refused"], "not UTF-8"),
    Case(
        "49 broken line",
        '{"audio": "a.wav"}\n{"audio": \n{"audio": "a.wav", "offset_s": 1}\n',
        ["ok", "manifest/BadManifestRow", "ok"],
    ),
    Case(
        "49 two values for one key",
        '{"audio": "a.wav"}\n{"audio": "a.wav", "audio": "/etc/passwd"}\n',
        ["ok", "manifest/BadManifestRow"],
    ),
    Case(
        "49 huge line",
        '{"audio": "a.wav"}\n{"audio": "' + "a" * (1 << 20) + '"}\n',
        ["ok", "manifest/BadManifestRow"],
    ),
    Case("50 gz", gzip.compress(b"audio\na.wav\n"), ["ok"]),  # with a name that has another suffix
    Case("50 zst", zstandard.compress(b"audio\na.wav\n"), ["ok"]),
    Case("50 gz cut", gzip.compress(b"audio\n" * 99)[:-9], ["refused"], "cut short"),
    Case("50 packed twice", gzip.compress(gzip.compress(b"audio\n")), ["refused"], "twice"),
    Case("50 bomb", gzip.compress(bytes(3 << 20)), ["refused"], "split it"),
    Case("51 parquet cut", parquet(pa.table({"audio": ["a.wav"]}))[:-20], ["refused"]),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_manifest(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "_MAX_TEXT", 2 << 20)
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(encode(tone(2)))
    path = tmp_path / "list.txt"
    text = case.manifest
    if not isinstance(text, str | bytes):
        text = "".join(json.dumps(row) + "\n" for row in text)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    if list(case.ends) == ["refused"]:
        with pytest.raises(ManifestError, match=r"list\.txt: ") as caught:
            label(str(path), **case.allowed)
        assert case.words in str(caught.value)
        return
    rows = label(str(path), **case.allowed)
    check(rows, case.ends)
    for row in rows:
        assert row["error_stage"] == "" or case.words in row["error_message"]
        assert "root:" not in row["error_message"]  # the first word of /etc/passwd
    assert not (ROOT / "x").exists()


def test_39_credentials_are_never_stored(tmp_path: Path) -> None:
    uri = "http://me:pa55word@127.0.0.1:9/a.wav?id=5&X-Amz-Signature=51gnature&token=t0k3n"
    (tmp_path / "list.csv").write_text(f"audio\n{uri}\n{uri}&language=2\n")
    for allow_http, end in ((True, "decode/NotAllowed"), (False, "manifest/NotAllowed")):
        rows = label(str(tmp_path / "list.csv"), allow_http=allow_http)
        check(rows, [end, end])
        written = json.dumps(rows)
        assert not [secret for secret in ("pa55", "51gn", "t0k3n", "me:") if secret in written]
        assert rows[0]["uri"] == "http://127.0.0.1:9/a.wav?id=5&token=***"
        assert rows[0]["recording_id"].startswith(f"{rows[0]['uri']}~")


def test_51_files_with_different_schemas_are_one_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(tone(2)))
    columns = [
        {"audio": pa.array(["a.wav"]).dictionary_encode(), "offset_s": pa.array([0], pa.int8())},
        {"audio": pa.array(["a.wav"], pa.large_string()), "offset_s": pa.array(["0.5"])},
        {"audio": pa.array(["a.wav"]), "offset_s": [1.0], "added": ["x"]},
        {
            "audio": pa.array(["a.wav"]),
            "offset_s": [[1.0]],
        },  # the specification refuses the manifest; here only this row is an error
    ]
    for index, column in enumerate(columns):
        pq.write_table(pa.table(column), tmp_path / f"{index}.parquet")
    ends = ["ok", "ok", "ok", "manifest/BadManifestRow"]
    check(label(str(tmp_path / "*.parquet")), ends)


def test_52_a_manifest_is_read_once(tmp_path: Path) -> None:
    """The plan holds the rows as they were read; no part of a run reads the file again."""
    path = tmp_path / "list.csv"
    path.write_text("audio\na.wav\n")
    manifest = read_manifest(str(path), {})
    path.write_text("audio\nb.wav\nc.wav\n")
    plan = make_plan(manifest, TABLES["recordings"].empty_table(), "f", {})
    assert plan.todo["uri"].to_pylist() == [f"{tmp_path}/a.wav"]


# --------------------------------------------------------------- 38, 53, 54: the store

_KEYS = (
    "cafe\u0301.wav",  # NFD
    "caf\u00e9.wav",  # NFC: another object
    "\u05e9\u05dc\u05d5\u05dd \u202e.wav",
    "🎧 a b.wav",
    "100% %41 + & = ?.wav",
    "x/" * 500 + "deep.wav",  # 1008 bytes, of 1024 that S3 allows
)


def test_38_unusual_names_are_read_as_they_are_written(s3: S3) -> None:
    bucket, options = s3.new_bucket(), s3.storage_options
    fs, _ = filesystem_for(bucket, options)
    for index, key in enumerate(_KEYS):
        fs.pipe(f"{bucket}/{key}", encode(tone(1 + index / 10)))
    lines = [json.dumps({"audio": f"{bucket}/{key}"}, ensure_ascii=False) for key in _KEYS]
    fs.pipe(f"{bucket}/list.jsonl", "\n".join(lines).encode())
    rows = label(f"{bucket}/list.jsonl", options)
    check(rows, ["ok"] * len(_KEYS))
    assert [row["uri"] for row in rows] == [f"{bucket}/{key}" for key in _KEYS]
    lengths = [row["duration_s"] for row in rows]
    assert lengths == pytest.approx([1 + index / 10 for index in range(len(_KEYS))])


class _Denied(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that answers 403 to every request."""

    protocol = "denied"

    def info(self, path: str, **options: Any) -> Any:
        raise PermissionError("Forbidden")


def test_53_an_object_that_is_missing_or_denied_is_a_row(s3: S3, tmp_path: Path) -> None:
    bucket, options = s3.new_bucket(), s3.storage_options
    fs, _ = filesystem_for(bucket, options)
    fs.pipe(f"{bucket}/a.wav", encode(tone(1)))
    fs.pipe(f"{bucket}/list.csv", b"audio\na.wav\nnever.wav\n")
    plan = make_plan(
        read_manifest(f"{bucket}/list.csv", options),
        TABLES["recordings"].empty_table(),
        "f",
        options,
    )
    fs.rm(f"{bucket}/a.wav")  # after the plan
    decode = partial(decode_recordings, config=AudioConfig(), options=options, run_id="r")
    kinds = [kind for table in decode(plan.todo) for kind in table["error_type"].to_pylist()]
    assert kinds == ["FileMissing", "FileMissing"]
    fsspec.register_implementation("denied", _Denied, clobber=True)
    (tmp_path / "list.csv").write_text("audio\ndenied://x/a.wav\n")
    rows = label(str(tmp_path / "list.csv"), allowed_roots=["denied://x/"])
    check(
        rows, ["decode/AccessDenied"]
    )  # may be retried; too many of these stop the run (runs/recovery)


def test_54_an_archived_object_has_its_own_error_type(s3: S3) -> None:
    """Requester-pays buckets answer AccessDenied (403), which is row 53."""
    bucket, options = s3.new_bucket(), s3.storage_options
    fs, _ = filesystem_for(bucket, options)
    fs.pipe(f"{bucket}/a.wav", encode(tone(1)), StorageClass="GLACIER")
    fs.pipe(f"{bucket}/list.csv", b"audio\na.wav\n")
    check(label(f"{bucket}/list.csv", options), ["decode/Archived"])


def test_no_shell_is_ever_started() -> None:
    """No file name can become a command, because nothing in the project starts a shell."""
    shells = ("shell=True", "os.system", "os.popen", "getoutput", "create_subprocess_shell")
    sources = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    assert len(sources) > 80
    found = [
        (path.name, word)
        for path in sources
        for word in shells
        if word in path.read_text(encoding="utf-8")
    ]
    assert not found


def test_every_number_of_the_table_has_its_case() -> None:
    names = [name for name, _, _ in FILES] + [case.name for case in CASES]
    names += [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    numbers = {int(name[:2]) for name in names if name[:2].isdigit()}
    assert numbers == set(range(1, 55))
