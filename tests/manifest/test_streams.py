"""JSON lines and CSV, read in blocks: the same rows at any block size, and bounded memory."""

import gzip
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.errors import ManifestError
from pipeline.manifest import files, text
from pipeline.manifest.read import Manifest, read_manifest
from tests.support.demo import ROOT


def read(tmp_path: Path, data: str | bytes) -> Manifest:
    path = tmp_path / "list"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_manifest(str(path), {}, ["/"])


def refusal(tmp_path: Path, data: str | bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, data)
    return str(caught.value)


# ------------------------------------------------------------------------------- quotes


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('audio,text\na.wav,"hello\nb.wav,x\nc.wav,y\n', 2),
        ('audio,text\na.wav,x\nb.wav,"', 3),
        ('audio,text\na.wav,"hello\nb.wav,"x"\nc.wav,y\n', 2),
        ('audio,text\na.wav,"hello\nb.wav,say "hi"\n', 2),
        ('audio,text\na.wav,ok\nb.wav,"hello\nc.wav,5" disk\n', 3),
        ('audio,text\na.wav,"one ""two\nb.wav,x\n', 2),
        ('audio,text\n"a.wav,hello\nb.wav,x\n', 2),
        ('audio;text\na.wav;"hello\nb.wav;x\n', 2),
        ('audio\ttext\na.wav\t"hello\r\nb.wav\tx\r\n', 2),
        ('audio,"text\na.wav,x\nb.wav,y\n', 1),
        ('audio,text\na.wav,"two\nlines"\nb.wav,"open\nc.wav,x\n', 4),
    ],
)
@pytest.mark.parametrize("block", [7, 4 << 20])
def test_a_quote_that_is_never_closed_is_refused_with_its_line(
    data: str, line: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK", block)
    for packed in (data.encode(), gzip.compress(data.encode())):
        assert f"line {line}: a quote opens a field" in refusal(tmp_path, packed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"two\nlines, and ""quotes"""', 'two\nlines, and "quotes"'),
        ('5" disk', '5" disk'),
        ('"x"y', "xy"),
        ('""""', '"'),
        ('""', ""),
    ],
)
def test_quotes_that_hide_no_row_are_read(field: str, value: str, tmp_path: Path) -> None:
    table = read(tmp_path, f"audio,text\na,{field}\nb,x\nc,{field}\n").table
    texts = [dict(extra).get("text", "") for extra in table["extra"].to_pylist()]
    assert texts == [value, "x", value]


def test_a_row_without_an_end_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_MAX_RECORD", 1 << 10)
    monkeypatch.setattr(files, "_BLOCK", 1 << 8)
    data = 'audio,text\na,x\nb,"' + "y\n" * 1000
    assert "line 3: a row of more than" in refusal(tmp_path, data)


# ------------------------------------------------------------------------------- blocks

_WORDS = ["a", "é", '"', "\n", ",", "x y", "", "日本"]


def random_rows(seed: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    rows = []
    for number in range(60):
        text_ = "".join(rng.choices(_WORDS, k=rng.randrange(6)))
        rows.append({"audio": f"/{number}.wav", "text": text_})
    return rows


def as_csv(rows: list[dict[str, str]]) -> str:
    quoted = ('"' + row["text"].replace('"', '""') + '"' for row in rows)
    return "audio,text\n" + "".join(
        f"{row['audio']},{field}\n" for row, field in zip(rows, quoted, strict=True)
    )


@pytest.mark.parametrize("seed", range(2))
def test_the_size_of_a_block_changes_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(seed)
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for data, block in itertools.product((jsonl, as_csv(rows)), (1, 3, 10, 64, 1 << 20)):
        monkeypatch.setattr(files, "_BLOCK", block)
        monkeypatch.setattr(text, "ROWS", max(1, block))
        for packed in (data.encode(), zstandard.compress(data.encode())):
            if block < 8 and packed[:2] == b"\x28\xb5":
                continue
            table = read(tmp_path, packed).table
            assert table["uri"].to_pylist() == [row["audio"] for row in rows]
            texts = [dict(extra).get("text", "") for extra in table["extra"].to_pylist()]
            assert texts == [row["text"] for row in rows]


def test_broken_rows_keep_their_numbers_in_later_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_BLOCK", 50)
    body = [f"/{number},x" if number % 10 != 7 else "/broken" for number in range(1, 101)]
    table = read(tmp_path, "audio,text\n" + "\n".join(body)).table
    assert table["uri"].to_pylist() == [
        "" if row == "/broken" else row.partition(",")[0] for row in body
    ]
    messages = [message for message in table["error_message"].to_pylist() if message]
    assert messages == [f"row {n} has 1 fields instead of 2" for n in range(7, 101, 10)]


def test_a_late_row_of_json_without_audio_is_an_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "ROWS", 4)
    rows: list[dict[str, Any]] = [{"audio": f"/{number}"} for number in range(8)]
    table = read(tmp_path, "".join(json.dumps(row) + "\n" for row in [*rows, {"n": 1}])).table
    assert table["error_message"].to_pylist()[-1] == "row 9: audio is empty"


# ------------------------------------------------------------------------------- memory

_CHILD = """
import resource, sys
from pipeline.manifest.read import read_manifest
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
for path in sys.argv[2:]:
    manifest = read_manifest(path, {}, ["/"])
    print(manifest.n_rows, manifest.n_duplicates)
"""


def count_in(memory: int, *paths: Path) -> list[int]:
    """(rows, duplicates) of manifests, read by a process with so many bytes of addresses."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(memory), *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(number) for number in done.stdout.split()]


def test_a_short_manifest_needs_little_memory(tmp_path: Path) -> None:
    """A CSV and JSON lines."""
    (tmp_path / "csv").write_bytes(b"audio\n/a.wav\n/b.wav\n")
    (tmp_path / "jsonl").write_bytes(b'{"audio": "/a"}\n{"audio": "/b"}')
    # 16 GiB were reserved before
    assert count_in(4 << 30, tmp_path / "csv", tmp_path / "jsonl") == [2, 0, 2, 0]


@pytest.mark.slow
def test_ten_million_equal_rows_end_in_bounded_memory(tmp_path: Path) -> None:
    block = b"/a.wav\n" * 1_050_000
    data = zstandard.ZstdCompressor(level=19).compress(b"audio\n" + block * 10)
    (tmp_path / "list").write_bytes(data)
    assert len(data) < 10_000
    assert count_in(4 << 30, tmp_path / "list") == [1, 10_499_999]
