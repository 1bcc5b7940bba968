"""Label, review, fine-tune, label again, compare, promote, release, serve: the whole loop.

The demo model has not met noise in a band of 2 kHz. What is trained and what is held out are other
clips, not other variants of the same ones. The held-out clips also chose the mix, so the fall of
their errors is no estimate of accuracy.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from pipeline.audio.channels import Waveform
from pipeline.evaluation.compare import compare
from pipeline.evaluation.corpora import from_extra
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.gates import metrics_of
from pipeline.evaluation.hypotheses import read_hypotheses
from pipeline.evaluation.references import ReferenceSet, join
from pipeline.export.clips import to_wav
from pipeline.maintenance.promote import promote
from pipeline.maintenance.release import release
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, connect, open_snapshot
from pipeline.tables.reviews import Interval, Labels, Review, Shown, save
from pipeline.training.finetune import finetune
from pipeline.training.prepare import prepare
from pipeline.training.session import Listener
from pipeline.training.settings import load_finetune_config
from tests.serving.test_app import post, serving
from tests.support.demo import (
    AUDIO,
    LONG,
    ROOT,
    SHORT,
    demo_config,
    execute,
    label_of,
    waveform_of,
    write_manifest,
)

NOISE_DB = 10.0  # under the speech
BAND_HZ = 4000  # sampled at
N_VARIANTS = 4
WITHOUT_RAY = "ray.local=always", "vad=none", "segment.whole_below_s=30", "label.use_itn=false"
References = list[dict[str, Any]]


def over_the_phone(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """In a narrow band, with noise."""
    narrow = soxr.resample(waveform.astype(np.float32), SAMPLE_RATE, BAND_HZ)
    wide = soxr.resample(narrow, BAND_HZ, SAMPLE_RATE)
    level = np.sqrt(np.mean(wide**2) + 1) / 10 ** (NOISE_DB / 20)
    noisy = wide + level * rng.normal(size=len(wide))
    return np.asarray(np.clip(noisy, -32768, 32767), np.int16)


class Corpus:
    """Clips of the demo's long recording to train on; its short recordings, held out."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rng = folder, np.random.default_rng(0)
        long = waveform_of(AUDIO / LONG["audio"])
        self.train: References = []
        self.clean: References = []
        for number, part in enumerate(LONG["ref_segments"]):
            first, last = (round(part[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
            clip = long[first - SAMPLE_RATE // 10 : last + SAMPLE_RATE // 10]
            self.clean.append(self._write(f"clean-{number}", clip, part))
            self.train += [
                self._write(f"train-{number}-{variant}", self._phone(clip), part)
                for variant in range(N_VARIANTS)
            ]
        self.held_out = [
            self._write(f"phone-{one['recording_id']}", self._phone(waveform_of(path)), one)
            for one in SHORT
            if (path := AUDIO / one["audio"])
        ]
        self.known = [one | {"audio": str(AUDIO / one["audio"])} for one in SHORT]

    def _phone(self, clip: Waveform) -> Waveform:
        return over_the_phone(clip, self._rng)

    def _write(self, name: str, clip: Waveform, reference: dict[str, Any]) -> dict[str, Any]:
        path = self._folder / f"{name}.wav"
        path.write_bytes(to_wav(clip))
        labels = {key: value for key, value in reference.items() if key.startswith("ref_")}
        return labels | {"recording_id": name, "audio": str(path)}

    def jsonl(self, name: str, rows: References) -> str:
        """Rows of SenseVoice's fine-tuning, without ITN."""
        path = self._folder / f"{name}.jsonl"
        lines = [
            {
                "key": row["recording_id"],
                "source": row["audio"],
                "target": row["ref_text"],
                "text_language": f"<|{row['ref_language']}|>",
                "emo_target": f"<|{row['ref_emotion']}|>",
                "event_target": f"<|{row['ref_event']}|>",
                "with_or_wo_itn": "<|woitn|>",
            }
            for row in rows
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return str(path)


def review_as_the_references_say(root: str, rows: References) -> None:
    """What a person would do in `jobs explore`, segment by segment."""
    snapshot = open_snapshot(root)
    right = {row["recording_id"]: row for row in rows}
    with connect(root) as connection:
        found = connection.execute(
            "SELECT s.recording_id, r.version, s.start_s, s.end_s, s.segment_id, s.text, "
            "s.language, s.emotion FROM segments s JOIN recordings r USING (recording_id)"
        ).fetchall()
    for recording_id, version, start_s, end_s, segment_id, text, language, emotion in found:
        if not (row := right.get(recording_id)):
            continue
        event = label_of(row["ref_event"])
        labels = Labels(
            row["ref_text"],
            row["ref_language"],
            label_of(row["ref_emotion"]),
            () if event == "unknown" else (event,),
        )
        shown = Labels(text, language, emotion, ())
        save(
            snapshot.store,
            Review(
                interval=Interval(recording_id, version, start_s, end_s),
                revision=1,
                verdict="fixed",
                labels=labels,
                shown=Shown(segment_id, snapshot.fingerprint, snapshot.seq, shown),
                reviewer="ann",
                saved_at=datetime(2026, 11, 26, tzinfo=UTC),
                request_id=segment_id,
            ),
        )


def errors_of(snapshot: Snapshot, rows: References) -> dict[str, float]:
    """The evaluation job's metrics on some recordings."""
    wanted = {row["recording_id"] for row in rows}
    hypotheses = {
        name: one for name, one in read_hypotheses(snapshot, {}).items() if name in wanted
    }
    assert len(hypotheses) == len(rows)
    found = ReferenceSet("manifest")
    own = (from_extra(name, one.extra, found) for name, one in hypotheses.items())
    found.references += [one for one in own if one]
    joined = join(found, {name: one.uri for name, one in hypotheses.items()})
    told = metrics_of(evaluate(joined, hypotheses, found, ("", 0)).scores)
    return {name: value for name, value in told.items() if value is not None}


def texts_of(snapshot: Snapshot) -> dict[str, str]:
    """The text of each recording that is one segment."""
    rows = snapshot.read("transcripts").to_pylist()
    return {row["recording_id"]: row["text"] for row in rows}


def test_the_loop_makes_the_model_better_where_it_was_bad_and_no_worse_elsewhere(
    patience: None, tmp_path: Path
) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    corpus = Corpus(audio)
    root, new = str(tmp_path / "root"), str(tmp_path / "new")
    manifest = write_manifest(tmp_path, [*corpus.train, *corpus.held_out, *corpus.known])
    execute(demo_config(root, f"manifest={manifest}", *WITHOUT_RAY))
    before = open_snapshot(root)
    review_as_the_references_say(root, corpus.train)

    held_out = {
        "phone": corpus.jsonl("phone", corpus.held_out),
        "demo": corpus.jsonl("demo", corpus.known),
    }
    settings = [
        f"output={new}",
        f"data.train={{root: {root}, reviewed: only}}",
        f"data.valid={json.dumps(held_out)}",
        f"data.replay={corpus.jsonl('clean', corpus.clean)}",
        *("batch_s=30", "epochs=4", "lr=0.0002", "ema=0.9", "average=2"),
        *("specaug.freq=0", "specaug.time=0"),
    ]
    config = load_finetune_config(ROOT / "configs" / "finetune.yaml", settings)
    done = finetune(prepare(config), Listener(lambda told: None, lambda step, scores: None))
    assert done.is_better

    execute(demo_config(root, f"manifest={manifest}", f"model={new}", *WITHOUT_RAY))
    files = open_snapshot(root).state.files["recordings"].values()
    (other,) = {file.fingerprint for file in files} - {before.fingerprint}
    after = open_snapshot(root, fingerprint=other)
    phone = errors_of(before, corpus.held_out), errors_of(after, corpus.held_out)
    known = errors_of(before, corpus.known), errors_of(after, corpus.known)
    assert sum(phone[1].values()) < sum(phone[0].values())
    assert phone[1]["mixed_error_rate"] <= phone[0]["mixed_error_rate"]
    for name, value in known[0].items():
        assert known[1][name] <= value + config.gates.max_regression

    difference = compare(before, after)
    assert difference.n_both == len([*corpus.train, *corpus.held_out, *corpus.known])
    assert (difference.n_only_a, difference.n_only_b) == (0, 0)
    assert difference.total.n_edits > 0
    promoted = promote(before.store, other)
    assert promoted.fingerprint == other
    assert open_snapshot(root).fingerprint == other
    released = release(open_snapshot(root), open_store(str(tmp_path / "released")))
    assert released.n_rows["recordings"] == difference.n_both

    texts = texts_of(after)
    online = demo_config(tmp_path / "unused", f"model={new}", *WITHOUT_RAY)
    with serving(online) as (url, _):
        for row in corpus.held_out:
            data = Path(row["audio"]).read_bytes()
            answer = post(url, "/v1/audio/transcriptions", data, use_itn="false").json()
            assert answer["text"] == texts[row["recording_id"]]
