"""Eight hours of sound through decode, segment and label in one process, and its memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.sounds import encode, noise, silence

ROOT = Path(__file__).parents[2]
_BURSTS, _GAP_S, _PIECE_S = 4, 74, 600

# Every window gets real log-mel features. Loudness separates speech from silence, because silero
# takes nine minutes for 24 hours; silero and the demo model process only the last window.
_SCRIPT = """
import json, re, sys
from functools import partial
from pathlib import Path
import numpy as np
import pyarrow as pa
from pipeline.config import AudioConfig, LabelConfig, RunConfig, SegmentConfig
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.schema import PLANNED, SAMPLE_RATE, Segment
from pipeline.models.sensevoice.model import load_sensevoice
from pipeline.stages.decode import decode_recordings
from pipeline.models.vad.load import load_vad

class Loud:
    def find_speech(self, waveforms, log_mels):
        loud = log_mels[0].mean(dim=1).numpy() > 10
        edges = np.flatnonzero(np.diff(np.pad(loud, 1).astype(int)))
        return [[Segment(a / 100, b / 100) for a, b in edges.reshape(-1, 2).tolist()]]

path, model = sys.argv[1:]
zeros = dict.fromkeys(("offset_s", "length_s", "channel", "bytes", "start"), 0)
empty = zeros | {"attempts": 1, "extra": {}}
row = {name: empty.get(name, "") for name in PLANNED.names} | {"uri": path, "work_key": "w"}
planned = pa.Table.from_pylist([row], schema=PLANNED)
segment = SegmentConfig()
loud = FindSegments(Loud, segment)
silero = FindSegments(lambda: load_vad("silero", segment), segment)
config = RunConfig(manifest="m", output="o", model=model)
label = LabelSegments(lambda: load_sensevoice(config), LabelConfig())
found = {"windows": 0, "segments": 0, "duration_s": 0.0, "edges": 0}
lengths_s = []
for window in decode_recordings(planned, config=AudioConfig(), options={}, run_id="r"):
    waveform = np.frombuffer(window["waveform"][0].as_buffer(), np.int16)
    edges = (waveform[:1600], waveform[-1600:])
    found["edges"] = max(found["edges"], *(int(np.abs(edge.astype(int)).max()) for edge in edges))
    (segmented,) = loud(window)
    lengths_s += [s["end_s"] - s["start_s"] for s in segmented["segments"][0].as_py()]
    if window["n_windows"][0].as_py():
        for rows in (segmented, *silero(window)):
            assert label(rows)["error_stage"].to_pylist() == [""]
    found["windows"] += 1
    found["duration_s"] += waveform.size / SAMPLE_RATE
found["segments"] = len(lengths_s)
found["shortest_s"], found["longest_s"] = min(lengths_s), max(lengths_s)
status = Path("/proc/self/status").read_text()
found["peak_mib"] = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024
print(json.dumps(found))
"""


@pytest.mark.usefixtures("patience")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_eight_hours_are_cut_in_silence_by_a_worker_under_2_gib(tmp_path: Path) -> None:
    """MP3 at 8 kHz is the fastest to decode of the formats that can be joined: 10 CPU-seconds."""
    burst = np.concatenate(
        [silence(_GAP_S, 8_000), noise(2, 8_000, level=0.2), silence(_GAP_S, 8_000)]
    )
    piece = encode(np.concatenate([burst] * _BURSTS), "mp3", 8_000)
    n_pieces = 8 * 3600 // _PIECE_S
    with (tmp_path / "long.mp3").open("wb") as file:
        for _ in range(n_pieces):
            file.write(piece)
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "long.mp3")]
    run = subprocess.run(
        [*command, str(ROOT / "configs" / "demo" / "model")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["duration_s"] == pytest.approx(8 * 3600, rel=0.001)
    assert found["windows"] >= 16
    assert found["edges"] < 100  # of 32768: every window begins and ends in silence
    assert found["segments"] == n_pieces * _BURSTS  # so no burst was cut in two
    assert found["shortest_s"] > 1.9
    assert found["longest_s"] < 2.3
    assert found["peak_mib"] < 2048


_WITHOUT_MEMORY = """
import json, re, resource, sys
from pathlib import Path
import pyarrow as pa
from pipeline.config import AudioConfig
from pipeline.schema import PLANNED
from pipeline.stages.decode import decode_recordings

zeros = dict.fromkeys(("offset_s", "length_s", "channel", "bytes", "start"), 0)
empty = zeros | {"attempts": 1, "extra": {}}
row = {name: empty.get(name, "") for name in PLANNED.names}

def decode(*paths):
    planned = pa.Table.from_pylist([row | {"uri": path} for path in paths], schema=PLANNED)
    windows = decode_recordings(planned, config=AudioConfig(), options={}, run_id="r")
    return [error for table in windows for error in table["error_type"].to_pylist()]

short, long = sys.argv[1:3]
ends = [decode(short)]  # loads the libraries
if len(sys.argv) > 3:
    used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[3]) << 20), -1))
ends.append(decode(long, short))
print(json.dumps(ends))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("spare_mib", "end"), [(["40"], "MemoryError"), ([], "")], ids=["40 MiB", "control"]
)
def test_a_recording_too_large_for_memory_is_an_error_row(
    tmp_path: Path, spare_mib: list[str], end: str
) -> None:
    """RLIMIT_AS leaves a worker 40 MiB; 25 minutes at 16 kHz take 46. The next row is fine."""
    (tmp_path / "short.wav").write_bytes(encode(noise(1)))
    (tmp_path / "long.flac").write_bytes(encode(silence(1500), "flac"))
    run = subprocess.run(
        [
            *(sys.executable, "-c", _WITHOUT_MEMORY),
            *(str(tmp_path / "short.wav"), str(tmp_path / "long.flac"), *spare_mib),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == [[""], [end, ""]]
