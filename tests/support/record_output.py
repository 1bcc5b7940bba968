"""Record an output for tests/recorded: python -m tests.support.record_output code_N.

Two runs over four files of the demo corpus, in a bucket of a loopback store. The manifest names the
version of each object, so that planning asks no store.
"""

import json
import shutil
import sys
from pathlib import Path

import boto3

from tests.support.demo import AUDIO, ROOT, label_command, run_command
from tests.support.s3_server import serve_s3

_NAMES = ("en_happy.mp3", "ko_angry.m4a", "yue_sad.ogg", "broken_empty.wav")


def _rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "audio": f"s3://recorded/{name}",
            "recording_id": name.partition(".")[0],
            "audio_version": f"v1-{index}",
            "audio_bytes": (AUDIO / name).stat().st_size,
            "speaker": f"s{index}",
        }
        for index, name in enumerate(_NAMES)
    ]
    rows[1]["offset_s"] = 0.25
    rows[2]["language"] = "yue"
    return rows


def record(folder: Path) -> None:
    """`root` and `manifest.jsonl` in a new folder."""
    folder.mkdir()
    with serve_s3() as s3:
        client = boto3.client("s3", endpoint_url=s3.endpoint)
        client.create_bucket(Bucket="recorded")
        for name in _NAMES:
            client.put_object(Bucket="recorded", Key=name, Body=(AUDIO / name).read_bytes())
        for n_rows in (2, len(_NAMES)):
            lines = (json.dumps(row) + "\n" for row in _rows()[:n_rows])
            (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
            done = run_command(
                label_command(
                    folder / "root",
                    *(f"manifest={folder / 'manifest.jsonl'}", "vad=none"),
                    "allowed_roots=['s3://recorded']",
                    f"storage_options={json.dumps(s3.storage_options)}",
                )
            )
            sys.stderr.write(done.stdout + done.stderr)
    (folder / "root" / "report.html").unlink()
    shutil.rmtree(folder / "root" / "_locks", ignore_errors=True)


if __name__ == "__main__":
    record(ROOT / "tests" / "recorded" / sys.argv[1])
