"""Figures that the authors of SenseVoice published, to stand beside one's own.

Read off the images of https://github.com/FunAudioLLM/SenseVoice (image/*.png at d478f77); bars are
good to 0.2 points, of events to 1 point. Their emotion figures are with `unknown` banned and only
the classes of the set scored (QwenAudio/SenseVoice#31): compare them with `emotion, forced`.
"""

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Published:
    """What SenseVoice-Small reached on one public set."""

    title: str
    figures: tuple[tuple[str, float], ...]  # (what, value in 0..1)


def _emotions(ua: float, wa: float, f1: float, wf1: float) -> tuple[tuple[str, float], ...]:
    named = zip(("UA", "WA", "macro F1", "weighted F1"), (ua, wa, f1, wf1), strict=True)
    return tuple((f"emotion, forced: {name}", value / 100) for name, value in named)


PUBLISHED = {
    "aishell1": Published("AISHELL-1 test", (("CER", 0.029),)),
    "aishell2-ios": Published("AISHELL-2 test, iOS", (("CER", 0.038),)),
    "wenetspeech-meeting": Published("WenetSpeech test, meeting", (("CER", 0.074),)),
    "wenetspeech-net": Published("WenetSpeech test, net", (("CER", 0.076),)),
    "librispeech-clean": Published("LibriSpeech test-clean", (("WER", 0.031),)),
    "librispeech-other": Published("LibriSpeech test-other", (("WER", 0.072),)),
    "casia": Published("CASIA", _emotions(70.0, 70.0, 70.3, 70.3)),
    "crema-d": Published("CREMA-D", _emotions(73.1, 74.0, 65.7, 65.7)),
    "esd": Published("ESD", _emotions(85.5, 85.5, 81.0, 81.0)),
    "iemocap": Published("IEMOCAP", _emotions(70.5, 65.7, 67.9, 67.8)),
    "meld": Published("MELD", _emotions(50.8, 57.8, 44.6, 57.7)),
    "mer2023": Published("MER2023", _emotions(69.0, 68.3, 52.8, 56.6)),
    "msp-podcast": Published("MSP-Podcast", _emotions(49.4, 64.1, 46.4, 63.1)),
    "esc50": Published(
        "ESC-50",
        (
            *(("applause F1", 0.625), ("laughter F1", 0.695), ("cough F1", 0.805)),
            *(("cry F1", 0.655), ("breath F1", 0.625), ("sneeze F1", 0.715)),
        ),
    ),
}


def published(name: str) -> Published:
    """Raises ConfigError for a set that is not known."""
    try:
        return PUBLISHED[name]
    except KeyError:
        raise ConfigError(
            f"--published {name}: not known; there are {', '.join(PUBLISHED)}"
        ) from None
