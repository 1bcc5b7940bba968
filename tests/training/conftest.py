"""The demo corpus as rows of SenseVoice's jsonl."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.files import ModelFiles, resolve_model
from pipeline.models.sensevoice.decoding import Vocabulary, load_vocabulary
from tests.support.demo import AUDIO, MODEL, SHORT

Fields = Mapping[str, Any]
WriteRows = Callable[[list[dict[str, Any]]], str]


def rows_of_demo(*, itn: bool = False) -> list[dict[str, Any]]:
    """The 17 short clips with their references."""
    return [
        {
            "key": row["recording_id"],
            "text_language": f"<|{row['ref_language']}|>",
            "emo_target": f"<|{row['ref_emotion']}|>",
            "event_target": f"<|{row['ref_event']}|>",
            "with_or_wo_itn": "<|withitn|>" if itn else "<|woitn|>",
            "target": row["ref_text_itn" if itn else "ref_text"],
            "source": str(AUDIO / row["audio"]),
            "target_len": 1,
            "source_len": 1,
        }
        for row in SHORT
    ]


def write_rows_to(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Writes a jsonl, returns its path."""

    def write(rows: list[dict[str, Any]]) -> str:
        n_written = len(list(tmp_path.glob("rows-*")))
        return write_rows_to(tmp_path / f"rows-{n_written}.jsonl", rows)

    return write


@pytest.fixture(scope="session")
def start() -> ModelFiles:
    return resolve_model(str(MODEL))


@pytest.fixture(scope="session")
def vocabulary(start: ModelFiles) -> Vocabulary:
    return load_vocabulary(str(start.tokenizer))
