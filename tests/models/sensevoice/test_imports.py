"""What a worker on a CPU imports: no compiler, which takes seconds of CPU and 160 MB."""

import json
import subprocess
import sys

import pytest

from tests.support.demo import AUDIO, MODEL, ROOT

pytestmark = pytest.mark.usefixtures("patience")

_SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.models.features import log_mel
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.decoding import label_clip
from pipeline.models.sensevoice.model import SenseVoice
from tests.support.demo import waveform_of

model, audio, precision = sys.argv[1:]
sense_voice = SenseVoice(resolve_model(model), "cpu", precision)
(output,) = sense_voice.transcribe([log_mel(waveform_of(Path(audio)))], ["auto"], [True])
print(json.dumps({
    "text": label_clip(output, sense_voice.vocabulary, 0.0, 5.0, True)["text"],
    "imported": [name for name in ("torch._dynamo", "sympy", "triton") if name in sys.modules],
}))
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_labelling_on_a_cpu_does_not_import_torch_dynamo(precision: str) -> None:
    """torch.nn.attention.varlen imports it, and only GPUs need that."""
    command = [sys.executable, "-c", _SCRIPT, str(MODEL), str(AUDIO / "en_happy.mp3"), precision]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"text": "2072.", "imported": []}
