"""Exports as shards, read back by the libraries whose format they are, and by this program."""

import io
import json
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pytest
import soundfile
import webdataset

from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.windows import decode
from pipeline.errors import ErrorType, ExportError, RecordingError
from pipeline.explorer.audio import Audio, Stretch
from pipeline.export.write import FORMATS, export
from pipeline.manifest.access import make_allowed_roots
from pipeline.manifest.read import read_manifest
from pipeline.storage.address import member_uri
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.demo import AUDIO, SHORT
from tests.support.shards import WRITERS

SPEECH = "text <> ''"
SMALL = 100_000  # bytes: some clips of a shard


def clips_of(root: str, folder: Path) -> dict[str, np.ndarray]:
    """The samples of every segment, by segment_id, as the export with loose clips has them."""
    export(root, folder, "audiofolder", SPEECH)
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {
        row["segment_id"]: soundfile.read(folder / row["file_name"], dtype="int16")[0]
        for row in rows
    }


def test_webdataset_loads_the_shards(labelled_root: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = export(labelled_root, out, "webdataset", SPEECH, shard_bytes=SMALL)
    shards = sorted(out.glob("train-*.tar"))
    assert [path.name for path in shards] == [f"train-{n:06d}.tar" for n in range(len(shards))]
    assert len(shards) > 3
    samples: list[dict[str, Any]] = list(
        webdataset.WebDataset([*map(str, shards)], shardshuffle=False)
    )
    clips = clips_of(labelled_root, tmp_path / "loose")
    assert len(samples) == done.n_segments == len(clips)
    for sample in samples:
        told = json.loads(sample["json"])
        assert sample["txt"].decode() == told["text"]
        samples_read, rate_hz = soundfile.read(io.BytesIO(sample["wav"]), dtype="int16")
        assert rate_hz == 16_000
        assert np.array_equal(samples_read, clips[told["segment_id"]])
    assert not (out / "audio").exists()


def test_lhotse_loads_the_shar(labelled_root: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    export(labelled_root, out, "shar", SPEECH, shard_bytes=SMALL)
    cuts = list(lhotse.CutSet.from_shar(in_dir=str(out / "train")))
    clips = clips_of(labelled_root, tmp_path / "loose")
    texts = dict(
        connect(labelled_root)
        .execute(f"SELECT segment_id, text FROM segments WHERE {SPEECH}")
        .fetchall()
    )
    assert len(cuts) == len(clips) == len(texts)
    for cut in cuts:
        (supervision,) = cut.supervisions
        segment_id = supervision.custom["segment_id"]
        assert supervision.text == texts[segment_id]
        samples = np.round(cut.load_audio()[0] * 32_768).astype(np.int16)
        assert np.array_equal(samples, clips[segment_id])
    assert len(list(out.glob("train/recording.*.tar"))) > 3


@pytest.mark.parametrize("format", ["webdataset", "shar", "parquet"])
def test_an_export_is_a_corpus_again(format: Any, labelled_root: str, tmp_path: Path) -> None:
    """The texts become references, by which the next model is evaluated."""
    export(labelled_root, tmp_path / "x", format, SPEECH, shard_bytes=SMALL)
    where = {"webdataset": "*.tar", "shar": "train", "parquet": "data/*.parquet"}[format]
    rows = read_manifest(str(tmp_path / "x" / where), {}).table.to_pylist(maps_as_pydicts="strict")
    texts = connect(labelled_root).execute(f"SELECT text FROM segments WHERE {SPEECH}").fetchall()
    assert sorted(row["extra"]["ref_text"] for row in rows) == sorted(text for (text,) in texts)
    assert {row["error_message"] for row in rows} == {""}


# ------------------------------------------------------- recordings that lie in archives


@pytest.fixture(params=["shard.tar", "shard.tar.gz", "shard.zip", "shard.parquet"], scope="module")
def member(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """(root of tables with one recording in an archive, its address)."""
    folder = tmp_path_factory.mktemp("member")
    name = SHORT[0]["audio"]
    data = (AUDIO / name).read_bytes()
    archive = WRITERS[request.param](folder / request.param, {"other.wav": data, name: data})
    kind = request.param.rpartition(".")[2].replace("gz", "tar")
    uri = member_uri(kind, name, str(archive))
    store = open_store(str(folder / "tables"))
    row = window("a")
    row |= {"uri": uri, "segments": [{**row["segments"][0], "start_s": 0.25, "end_s": 0.75}]}
    write_bundle(store, RUN, bundle(row))
    publish(store, RUN)
    return store.root, uri


def test_clips_of_a_member_are_those_of_the_file(member: tuple[str, str], tmp_path: Path) -> None:
    root, _ = member
    done = export(root, tmp_path / "x", "audiofolder")
    assert (done.n_segments, done.skipped) == (1, {})
    (clip,) = (tmp_path / "x").rglob("*.wav")
    whole = next(decode(str(AUDIO / SHORT[0]["audio"]), WITHOUT_LIMITS, {})).waveform
    assert np.array_equal(soundfile.read(clip, dtype="int16")[0], whole[4_000:12_000])


def test_the_explorer_plays_a_member(member: tuple[str, str]) -> None:
    root, uri = member
    data = (AUDIO / SHORT[0]["audio"]).read_bytes()
    audio = Audio(make_allowed_roots(str(Path(root).parent)), {})
    part = audio.part(uri, "bytes=10-19")
    assert (part.data, part.start, part.size) == (data[10:20], 10, len(data))
    assert len(audio.clip(Stretch("a-0", uri, 0.25, 0.75), "v")) == 44 + 16_000
    with pytest.raises(RecordingError) as refused:
        Audio(make_allowed_roots(str(AUDIO)), {}).part(uri, None)
    assert refused.value.kind == ErrorType.NOT_ALLOWED


@pytest.mark.parametrize("format", ["nemo", "lhotse", "kaldi"])
@pytest.mark.parametrize("member", ["shard.zip"], indirect=True)  # an address, whatever its kind
def test_a_format_that_names_files_refuses_members(
    format: Any, member: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="lies in an archive; use --audio clips"):
        export(member[0], tmp_path / "x", format)
    assert not (tmp_path / "x").exists()
    export(member[0], tmp_path / "x", format, audio="clips")
    assert {"webdataset", "shar"} <= {*FORMATS}
