"""A waveform as MP3, for a web page. Decodes nothing."""

from io import BytesIO

import soundfile

from pipeline.audio.channels import Waveform
from pipeline.schema import SAMPLE_RATE


def encode_mp3(waveform: Waveform) -> bytes:
    """(n_samples,) int16 at SAMPLE_RATE as a mono MP3 of a variable bit rate: speech, 3 kB/s."""
    file = BytesIO()
    soundfile.write(
        file,
        waveform,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=0.7,
        bitrate_mode="VARIABLE",
    )
    return file.getvalue()
