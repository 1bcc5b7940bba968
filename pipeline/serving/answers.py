"""Labelled segments in the shapes that clients expect. Knows the formats; nothing of HTTP.

OpenAI's shapes are those that its Python client 3 holds (openai/types/audio); what is ours is added
under other names, which that client keeps in `model_extra`. SenseVoice's is that of its api.py.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, get_args

from pipeline.arrow import Row
from pipeline.config import Language
from pipeline.export.captions import Cue, cue_text, to_srt, to_vtt
from pipeline.serving.labelling import Labelled

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]
RESPONSE_FORMATS: tuple[str, ...] = get_args(ResponseFormat)
_LANGUAGES: dict[str, Language] = {
    **{"": "auto", "auto": "auto", "zh": "zh", "en": "en", "yue": "yue", "ja": "ja", "ko": "ko"},
    **{"zh-hk": "yue", "cantonese": "yue", "chinese": "zh", "english": "en", "japanese": "ja"},
    "korean": "ko",
}
# As webui.py of SenseVoice shows them: events before the text, the emotion behind it.
_EMOTION_EMOJIS = {
    **{"happy": "😊", "sad": "😔", "angry": "😡", "fearful": "😰", "disgusted": "🤢"},
    "surprised": "😮",
}
_EVENT_EMOJIS = {
    **{"bgm": "🎼", "applause": "👏", "laughter": "😀", "cry": "😭", "sneeze": "🤧"},
    **{"breath": "", "cough": "🤧"},
}


def read_language(text: str) -> Language | None:
    """The language that a client means by `en`, `en-US` or `English`; None for any other."""
    name = text.strip().lower().replace("_", "-")
    return _LANGUAGES.get(name) or _LANGUAGES.get(name.partition("-")[0])


class Answer:
    """All parts of one file, to be put into words. `usage` counts whole seconds, as OpenAI does."""

    def __init__(self, parts: Sequence[Labelled]) -> None:
        self.parts = parts
        self.segments = [segment for part in parts for segment in part.segments]
        self.duration_s = sum(part.duration_s for part in parts)
        self.labelled_s = sum(part.labelled_s for part in parts)

    @property
    def text(self) -> str:
        """The texts of all segments in the order of time, joined as their languages are written."""
        return join_texts(self.segments)

    @property
    def usage(self) -> dict[str, Any]:
        """What OpenAI's clients add up."""
        return {"type": "duration", "seconds": math.ceil(self.duration_s)}

    def to_json(self) -> dict[str, Any]:
        """The format `json`, and what is ours beside it."""
        return {"text": self.text, "usage": self.usage, **self._ours()}

    def to_verbose(self, *, with_words: bool) -> dict[str, Any]:
        """The format `verbose_json`; all keys that OpenAI's types demand are there."""
        words = [
            {"word": word["word"], "start": word["start_s"], "end": word["end_s"]}
            for segment in self.segments
            for word in segment["words"]
        ]
        return {
            "task": "transcribe",
            "language": self._language(),
            "duration": round(self.duration_s, 3),
            "text": self.text,
            "usage": self.usage,
            "segments": [segment_facts(index, one) for index, one in enumerate(self.segments)],
            **({"words": words} if with_words else {}),
            **self._ours(),
        }

    def to_captions(self, kind: Literal["srt", "vtt"]) -> str:
        """SubRip or WebVTT; a segment without a text shows its sounds."""
        cues = [
            Cue(f"{index}", one["start_s"], one["end_s"], cue_text(one["text"], one["events"]))
            for index, one in enumerate(self.segments)
        ]
        shown = [cue for cue in cues if cue.text]
        return to_srt(shown) if kind == "srt" else to_vtt(shown)

    def to_sensevoice(self, key: str) -> dict[str, str]:
        """One entry of the `result` of SenseVoice's api.py: emojis, tags, and neither."""
        shown = " ".join(filter(None, (with_emojis(one) for one in self.segments)))
        tagged = " ".join(one["rich_text"] for one in self.segments)
        return {"key": key, "text": shown, "raw_text": tagged, "clean_text": self.text}

    def _ours(self) -> dict[str, Any]:
        warnings = dict.fromkeys(part.warning for part in self.parts if part.warning)
        return {
            "seconds_received": round(self.duration_s, 3),
            "seconds_labelled": round(self.labelled_s, 3),
            "warning": "; ".join(warnings),
        }

    def _language(self) -> str:
        """The language of most seconds, not of the first segment."""
        seconds: Counter[str] = Counter()
        for one in self.segments:
            seconds[one["language"]] += one["end_s"] - one["start_s"]
        spoken = [name for name, _ in seconds.most_common() if name != "nospeech"]
        return spoken[0] if spoken else "nospeech"


def join_texts(segments: Sequence[Row]) -> str:
    """The texts of segments in the order of time."""
    text = ""
    for one in segments:
        text += text_after(text, one)
    return text


def text_after(text: str, segment: Row) -> str:
    """What a segment adds to the text before it: a blank first, if its language is written so."""
    if not segment["text"]:
        return ""
    between = "" if not text or segment["language"] in ("zh", "yue", "ja") else " "
    return between + str(segment["text"])


def segment_facts(index: int, segment: Row) -> dict[str, Any]:
    """A segment of verbose_json: OpenAI's ten keys, then ours."""
    confidence = segment["confidence"]
    return {
        "id": index,
        "seek": round(100 * segment["start_s"]),
        "start": segment["start_s"],
        "end": segment["end_s"],
        "text": segment["text"],
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": math.log(confidence) if confidence else -100.0,  # OpenAI's is a number
        "compression_ratio": 0.0,
        "no_speech_prob": segment["language_probabilities"]["nospeech"],
        **{name: segment[name] for name in _OURS if name in segment},
    }


_OURS = (
    *("rich_text", "confidence", "words", "language", "language_probability"),
    *("language_runner_up", "language_runner_up_probability", "emotion", "emotion_probability"),
    *("emotion_runner_up", "emotion_runner_up_probability", "emotion_forced", "events"),
)


def with_emojis(segment: Row) -> str:
    """The text as SenseVoice's web page shows it."""
    events = [event["event"] for event in segment["events"] if event["source"] == "tag"]
    before = "".join(_EVENT_EMOJIS.get(event, "") for event in events)
    return f"{before}{segment['text']}{_EMOTION_EMOJIS.get(segment['emotion'], '')}"
