"""Exports of what people corrected: whose labels, whose words, and which split."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExportError
from pipeline.export.reviewed import Reviewed, corrected_events, kept_words
from pipeline.export.write import export
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.review_table import fold_reviews
from pipeline.tables.reviews import Labels, save
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.explored import review, write_output

NUMBERS = ("two", "three", "four")  # of the model's texts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six segments: one corrected, one right, one unusable, one unsure, two without a review."""
    root = write_output(tmp_path_factory.mktemp("reviewed"))
    store = open_store(root)
    corrected = Labels("two better words", "ko", "sad", ("speech", "laughter"))
    save(store, review("ann", 0, "", labels=corrected))
    save(store, review("ann", 1, "two words here", verdict="right", sample="random"))
    fold_reviews(store)  # the rest is in objects only: an export misses none of them
    save(store, review("bob", 0, "x", verdict="unusable"))
    save(store, review("bob", 1, "perhaps", verdict="unsure"))
    return root


def lines(folder: Path, name: str = "manifest.jsonl") -> Iterator[dict[str, Any]]:
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


@pytest.mark.parametrize(
    ("reviewed", "texts"),
    [
        ("only", ["two better words", "two words here"]),
        ("prefer", ["two better words", "two words here", "three words here", "four words here"]),
        ("exclude", ["four words here"]),
        ("ignore", ["two words here", "two words here", "three words here", "three words here"]),
    ],
)
def test_an_export_takes_whose_labels_it_was_told(
    root: str, tmp_path: Path, reviewed: Reviewed, texts: list[str]
) -> None:
    export(root, tmp_path / "x", "nemo", "text NOT LIKE '<img%'", reviewed=reviewed)
    told = list(lines(tmp_path / "x"))
    assert {line["pred_text"] for line in told} <= {f"{n} words here" for n in NUMBERS}
    found = [line["text"] for line in told]
    assert found == texts + (["four words here"] if reviewed == "ignore" else [])


def test_corrected_labels_replace_all_of_the_models(root: str, tmp_path: Path) -> None:
    export(root, tmp_path / "x", "sensevoice", "verdict = 'fixed'", reviewed="only")
    (line,) = lines(tmp_path / "x", "train.jsonl")
    assert line["target"] == "two better words"
    tags = [line[name] for name in ("text_language", "emo_target", "event_target")]
    assert tags == ["<|ko|>", "<|SAD|>", "<|Speech|>"]


def test_only_words_that_were_not_changed_keep_their_times(root: str, tmp_path: Path) -> None:
    export(root, tmp_path / "x", "lhotse", "verdict = 'fixed'", reviewed="only")
    data = gzip.decompress((tmp_path / "x" / "supervisions.jsonl.gz").read_bytes())
    (line,) = map(json.loads, data.splitlines())
    assert [word[:2] for word in line["alignment"]["word"]] == [["two", 0.0], ["words", 0.4]]


@pytest.mark.parametrize(
    ("said", "text", "kept"),
    [
        (["one", "two", "three"], "one too three", ["one", "three"]),
        (["开", "放", "时", "间"], "开饭时间。", ["开", "时", "间"]),
        (["a"], "", []),
        ([], "new text", []),
        (["the", "the"], "the", ["the"]),
    ],
)
def test_words_are_matched_in_order(said: list[str], text: str, kept: list[str]) -> None:
    words = [{"word": word, "start_s": float(at)} for at, word in enumerate(said)]
    assert [word["word"] for word in kept_words(words, text)] == kept


def test_what_only_a_person_heard_lasts_the_whole_segment() -> None:
    sounds = [
        {"event": "speech", "start_s": 1.0, "end_s": 2.0, "probability": 0.9},
        {"event": "bgm", "start_s": 1.2, "end_s": 1.4, "probability": 0.5},
    ]
    tag, found = corrected_events("bgm", sounds, ["speech", "laughter"], (1.0, 2.0))
    assert tag == "speech"
    assert found == (
        sounds[0],
        {"event": "laughter", "start_s": 1.0, "end_s": 2.0, "probability": 1.0},
    )
    assert corrected_events("speech", sounds, [], (1.0, 2.0)) == ("unknown", ())


def test_what_was_drawn_by_chance_and_reviewed_is_never_trained_on(
    root: str, tmp_path: Path
) -> None:
    done = export(root, tmp_path / "x", "sensevoice", reviewed="prefer", test_share=1e-9)
    assert done.n_test == 2
    keys = {line["key"] for line in lines(tmp_path / "x", "test.jsonl")}
    assert keys == {"ann-000000", "ann-000001"}
    assert len(list(lines(tmp_path / "x", "train.jsonl"))) == 3


def test_what_was_drawn_by_chance_is_kept_for_tests_though_reviews_are_ignored(
    tmp_path: Path,
) -> None:
    """And though no run has folded the review into the tables yet."""
    root = write_output(tmp_path)
    save(open_store(root), review("ann", 1, "two words here", verdict="right", sample="random"))
    done = export(root, tmp_path / "x", "sensevoice", reviewed="ignore", test_share=1e-9)
    assert done.n_test == 2
    keys = {line["key"] for line in lines(tmp_path / "x", "test.jsonl")}
    assert keys == {"ann-000000", "ann-000001"}


def test_a_speaker_is_in_one_split_and_in_the_same_one_each_time(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    rows = [
        window(f"r{number}") | {"extra": [("speaker", f"speaker {number % 20}")]}
        for number in range(60)
    ]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    splits: list[dict[str, str]] = []
    for name in ("one", "two"):
        export(store.root, tmp_path / name, "nemo", test_share=0.3)
        splits.append({row["extra"]["speaker"]: row["split"] for row in lines(tmp_path / name)})
        pairs = {(row["extra"]["speaker"], row["split"]) for row in lines(tmp_path / name)}
        assert len(pairs) == 20
    assert splits[0] == splits[1]
    assert 2 <= list(splits[0].values()).count("test") <= 11


def test_kaldi_has_the_speakers_of_the_manifest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    speakers = {"a": "zoe", "b": "Ann B.", "c": ""}
    rows = [
        window(name, n_segments=1) | {"extra": [("speaker", speaker)]}
        for name, speaker in speakers.items()
    ]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    export(store.root, tmp_path / "x", "kaldi")
    names = dict(
        line.split(" ", 1) for line in (tmp_path / "x" / "utt2spk").read_text().splitlines()
    )
    assert names["zoe-a-000000"] == "zoe"
    assert names["c-000000"] == "c-000000"
    (ann,) = (name for name in names if name.endswith("b-000000"))
    assert names[ann].startswith("Ann_B_--")
    assert ann.startswith(f"{names[ann]}-")
    assert list(names) == sorted(names)
    spoken = (tmp_path / "x" / "spk2utt").read_text().splitlines()
    assert spoken == sorted(spoken)
    assert f"{names[ann]} {ann}" in spoken


def test_the_columns_of_the_manifest_are_in_the_view_and_the_exports(
    root: str, tmp_path: Path
) -> None:
    found = connect(root).sql("SELECT DISTINCT extra['corpus'] FROM segments").fetchall()
    assert found == [("made up",)]
    export(root, tmp_path / "x", "audiofolder", "recording_id = 'ann'")
    assert {row["extra"] for row in lines(tmp_path / "x", "metadata.jsonl")} == {
        '{"corpus": "made up"}'
    }


def test_only_what_was_reviewed_is_refused_where_nothing_was(tmp_path: Path) -> None:
    root = write_output(tmp_path)
    with pytest.raises(ExportError, match="no segment"):
        export(root, tmp_path / "x", "nemo", reviewed="only")
