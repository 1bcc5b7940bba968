"""Rows and their checks: what FunASR's loader does in silence is counted and listed here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.export.clips import to_wav
from pipeline.models.sensevoice.decoding import BLANK, Vocabulary
from pipeline.training.data import TrainingData, read_data, report_on
from pipeline.training.examples import MASKED, frames_needed
from pipeline.training.rows import BadRow, TrainingRow, read_jsonl
from pipeline.training.settings import DataConfig, load_finetune_config
from tests.support.demo import ROOT
from tests.training.conftest import WriteRows, rows_of_demo

GOOD = rows_of_demo()[3]  # zh_neutral_44k_stereo
NO_LIMIT = {"max_dropped_share": 1.0}


def read(vocabulary: Vocabulary, train: str, **settings: Any) -> TrainingData:
    return read_data(DataConfig(train=train, **(NO_LIMIT | settings)), vocabulary, {})


def test_all_rows_of_the_demo_corpus_can_be_trained(
    write_rows: WriteRows, vocabulary: Vocabulary
) -> None:
    data = read(vocabulary, write_rows([*rows_of_demo(), *rows_of_demo(itn=True)]))
    assert data.train.dropped == []
    assert len(data.train.examples) == 34
    for one in data.train.examples:
        assert BLANK not in one.tokens
        assert vocabulary.text(one.tokens).strip() == one.row.text


def test_a_label_that_is_missing_is_masked_and_not_filled_in(
    write_rows: WriteRows, vocabulary: Vocabulary
) -> None:
    """FunASR trains NEUTRAL, Speech and zh in their place."""
    without = {k: v for k, v in GOOD.items() if k not in ("emo_target", "event_target")}
    rows = [
        {**without, "text_language": ""},
        {**GOOD, "emo_target": "<|EMO_UNKNOWN|>", "event_target": None},
        GOOD,
    ]
    first, second, whole = read(vocabulary, write_rows(rows)).train.examples
    assert first.tags[:3] == (MASKED, MASKED, MASKED)
    assert first.tags[3] == whole.tags[3] != MASKED
    assert second.tags[1:3] == (MASKED, MASKED)
    assert first.language_prompt == 0  # auto
    assert MASKED not in whole.tags
    (known,) = read(vocabulary, write_rows([rows[1]]), learn_unknown=True).train.examples
    assert known.tags[1] == vocabulary.tag_id("<|EMO_UNKNOWN|>")


def test_the_text_form_is_not_guessed(write_rows: WriteRows, vocabulary: Vocabulary) -> None:
    without = {k: v for k, v in GOOD.items() if k != "with_or_wo_itn"}
    path = write_rows([GOOD, without])
    (dropped,) = read(vocabulary, path).train.dropped
    assert dropped.kind == "no text form"
    assert read(vocabulary, path, itn=False).train.dropped == []


def make_noise(folder: Path, name: str, n_samples: int) -> str:
    path = folder / name
    samples = np.random.default_rng(0).integers(-3000, 3000, n_samples).astype(np.int16)
    path.write_bytes(to_wav(samples))
    return str(path)


def test_every_row_that_cannot_be_trained_is_listed_with_its_reason(
    write_rows: WriteRows, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """FunASR replaces such rows by others that it draws by chance."""
    faults = {
        "unreadable": {"source": str(tmp_path / "missing.wav")},
        "too long": {"source": make_noise(tmp_path, "long.wav", 16_000 * 31)},
        "too short": {"source": make_noise(tmp_path, "short.wav", 300)},
        "infeasible": {"source": make_noise(tmp_path, "brief.wav", 2400)},
        "unknown characters": {"target": "三Ω八"},
        "bad label": {"emo_target": "<|BORED|>"},
        "no audio": {"source": ""},
    }
    rows = [GOOD, *({**GOOD, "key": kind, **change} for kind, change in faults.items())]
    path = write_rows(rows)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("no json\n")
    data = read(vocabulary, path)
    assert [one.row.key for one in data.train.examples] == [GOOD["key"]]
    assert {one.kind: one.key for one in data.train.dropped} == {
        **{kind: kind for kind in faults},
        "no JSON object": "line 9",
    }
    (report,) = report_on(data)
    assert report.n_clips == 1
    assert report.n_dropped == {one.kind: 1 for one in data.train.dropped}
    by_kind = {one.kind: one.reason for one in data.train.dropped}
    assert "Ω" in by_kind["unknown characters"]
    assert "missing.wav" in by_kind["unreadable"]


def test_lengths_that_a_row_claims_are_not_believed(
    write_rows: WriteRows, vocabulary: Vocabulary
) -> None:
    """FunASR leaves out rows whose source_len is missing, under 60 or over 2,000."""
    without = {k: v for k, v in GOOD.items() if k not in ("source_len", "target_len")}
    data = read(vocabulary, write_rows([without, {**GOOD, "source_len": 9_999_999}]))
    assert len(data.train.examples) == 2


def test_frames_that_ctc_needs() -> None:
    assert frames_needed([]) == 0
    assert frames_needed([5, 6]) == 2
    assert frames_needed([5, 5, 5]) == 5


def test_many_dropped_rows_stop_the_training(write_rows: WriteRows, vocabulary: Vocabulary) -> None:
    path = write_rows([GOOD, {**GOOD, "source": "/nowhere.wav"}])
    with pytest.raises(ConfigError, match=r"1 of 2 rows cannot be used.*1 unreadable.*/nowhere"):
        read(vocabulary, path, max_dropped_share=0.1)


def test_a_clip_is_never_both_trained_and_held_out(
    write_rows: WriteRows, vocabulary: Vocabulary
) -> None:
    """By its audio, whatever its key and its text form are."""
    held_out = rows_of_demo(itn=True)[3]
    held_out["source"] = held_out["source"].replace("/configs/", "/./configs/")
    train, held = write_rows([GOOD]), write_rows([held_out])
    other = write_rows([rows_of_demo()[4]])
    with pytest.raises(ConfigError, match="1 clips of valid same are trained as well"):
        read(vocabulary, train, valid={"same": held})
    with pytest.raises(ConfigError, match="trained as well"):
        read(vocabulary, other, valid=held, replay=train)


def test_the_report_warns_of_rows_of_one_text_form_and_of_shared_speakers(
    write_rows: WriteRows, vocabulary: Vocabulary
) -> None:
    train = write_rows([{**GOOD, "speaker": "ann"}])
    held = write_rows([{**rows_of_demo()[4], "speaker": "ann"}])
    reports = report_on(read(vocabulary, train, valid=held))
    assert "without ITN" in reports[0].warnings[0]
    assert "1 speakers" in reports[1].warnings[0]


def test_a_relative_source_is_beside_the_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**GOOD, "source": "audio/a.wav"}))
    (row,) = read_jsonl(str(path), {})
    assert isinstance(row, TrainingRow)
    assert row.uri == f"{tmp_path}/audio/a.wav"


@pytest.mark.parametrize("line", ["[]", "7", '"text"', '{"key": 1, "source": 3}'])
def test_a_line_of_any_kind_is_a_row_or_a_bad_row(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n\n")
    (row,) = read_jsonl(str(path), {})
    assert isinstance(row, BadRow)


def test_batch_s_is_seconds_and_not_a_number_of_clips() -> None:
    """FunASR#2769: a batch size in clips where tokens were meant."""
    with pytest.raises(ConfigError, match="seconds of audio, not a number of clips"):
        load_finetune_config(ROOT / "configs" / "finetune.yaml", ["batch_s=8"])


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'data.trian' \(did you mean 'data.train'\?\)"):
        load_finetune_config(ROOT / "configs" / "finetune.yaml", ["data.trian=x"])
