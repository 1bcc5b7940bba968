"""What is right: one reference for each recording, and how references meet recordings. Pure."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.errors import ConfigError
from pipeline.manifest.formats import LANGUAGE_NAMES
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES

_ABSENT = {"", "unknown", "emo_unknown", "event_unk", "none", "nan", "n/a"}
_ALIASES: Mapping[str, Mapping[str, str]] = {
    "language": LANGUAGE_NAMES,
    "emotion": {"hap": "happy", "happiness": "happy", "joy": "happy", "ang": "angry"}
    | {"anger": "angry", "sadness": "sad", "neu": "neutral", "calm": "", "fea": "fearful"}
    | {"fear": "fearful", "dis": "disgusted", "disgust": "disgusted", "surprise": "surprised"},
    "event": {"clapping": "applause", "laughing": "laughter", "coughing": "cough"}
    | {"crying_baby": "cry", "breathing": "breath", "sneezing": "sneeze", "music": "bgm"},
}
_KNOWN = {"language": LANGUAGES, "emotion": EMOTIONS, "event": EVENTS}


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word and where it is, in seconds of its recording."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What is right about one recording; None where the reference says nothing."""

    key: str
    text: str | None = None  # spoken form, or the only one
    text_itn: str | None = None  # written form, with digits
    language: str | None = None
    emotion: str | None = None
    events: tuple[str, ...] | None = None
    speaker: str = ""
    words: tuple[TimedWord, ...] = ()
    speech: tuple[tuple[float, float], ...] = ()  # intervals with speech, seconds
    channel: int | None = None  # the only one that it is about, from 1

    @property
    def name(self) -> str:
        """The key, with the channel if it has one: as a recording of one channel is called."""
        return self.key if self.channel is None else name_of_channel(self.key, self.channel)


def name_of_channel(recording_id: str, channel: int) -> str:
    """What the labels of one channel of a recording are called."""
    return f"{recording_id}#channel={channel}"


@dataclass(slots=True)
class ReferenceSet:
    """References, and what could not be understood in them."""

    source: str
    references: list[Reference] = field(default_factory=list)
    unmapped: Counter[str] = field(default_factory=Counter)  # "emotion: bored" -> how often

    def label(self, kind: str, value: object) -> str | None:
        """The label of this project for a value in a file; counts those that it has none for."""
        plain = str(value if value is not None else "").strip()
        plain = re.sub(r"^<\|(.*)\|>$", r"\1", plain).strip().lower()
        if plain in _ABSENT:
            return None
        plain = _ALIASES[kind].get(plain, plain)
        if plain in _KNOWN[kind]:
            return plain
        self.unmapped[f"{kind}: {value}"] += 1
        return None


@dataclass(frozen=True, slots=True)
class Joined:
    """Which reference belongs to which recording."""

    by_recording: Mapping[str, Reference]
    n_missing: int  # references without a recording
    missing: Sequence[Reference]  # of these, those whose words count as deletions
    n_without: int  # recordings without a reference


def join(
    references: ReferenceSet, uris: Mapping[str, str], channels: Collection[str] = ()
) -> Joined:
    """References by recording_id; `uris` are those of the recordings, by recording_id.

    `channels` are the names (name_of_channel) of channels that were labelled each on its own: a
    reference with a channel belongs to one of these, or to the recording of only this channel. A
    key is a recording_id, or the address, the name or the stem of a file that only one recording
    has. Raises ConfigError for a key that occurs twice, for two keys that mean one recording, and
    if nothing meets.
    """
    counts = Counter(one.name for one in references.references)
    repeated = [key for key, n in counts.items() if n > 1]
    if repeated:
        raise ConfigError(
            f"{references.source}: the key {repeated[0]!r} occurs more than once ({len(repeated)} "
            "keys do); give each recording one reference"
        )
    places = _places(uris)
    found: dict[str, Reference] = {}
    missing: list[Reference] = []
    for reference in references.references:
        recording_id = places.get(reference.key) or places.get(_stem(reference.key), "")
        if recording_id and reference.channel is not None:
            recording_id = _of_channel(recording_id, reference.channel, uris, channels)
        if not recording_id:
            missing.append(reference)
        elif recording_id in found:
            raise ConfigError(
                f"{references.source}: {found[recording_id].name!r} and {reference.name!r} are the "
                f"same recording, {recording_id!r}; give each recording one reference"
            )
        else:
            found[recording_id] = reference
    if not found:
        ours = next(iter(uris), "none")
        theirs = references.references[0].key if references.references else "none"
        raise ConfigError(
            f"{references.source}: no reference belongs to a recording: the references have keys "
            f"like {theirs!r}, the tables recording_ids like {ours!r}; keys may be recording_ids "
            "or file names"
        )
    known = {name: name.rpartition("#channel=")[0] for name in channels}
    n_found = len({known.get(name, name) for name in found})
    return Joined(found, len(missing), missing, len(uris) - n_found)


def _of_channel(
    recording_id: str, channel: int, uris: Mapping[str, str], channels: Collection[str]
) -> str:
    """The labels of one channel: of a recording that was split, or of this channel alone; or ""."""
    name = name_of_channel(recording_id, channel)
    if name in channels or name in uris:
        return name
    return recording_id if recording_id.endswith(f"channel={channel}") else ""


def _places(uris: Mapping[str, str]) -> dict[str, str]:
    """recording_id by every name that means one recording only."""
    places: dict[str, str] = {}
    names: Counter[str] = Counter()
    for recording_id, uri in uris.items():
        for name in {uri, PurePosixPath(uri).name, _stem(uri)}:
            names[name] += 1
            places[name] = recording_id
    unique = {name: found for name, found in places.items() if names[name] == 1}
    return unique | {recording_id: recording_id for recording_id in uris}


def _stem(path: str) -> str:
    name = PurePosixPath(path).name
    return name.rpartition(".")[0] if "." in name else name


def spoken_only(references: Iterable[Reference]) -> bool:
    """Whether no text has a digit, and no written form is given: numbers are spelled out."""
    texts = [one for one in references if one.text is not None or one.text_itn is not None]
    has_digit = any(c.isdigit() for one in texts for c in (one.text or ""))
    return bool(texts) and not has_digit and not any(one.text_itn is not None for one in texts)
