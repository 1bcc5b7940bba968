"""The names of a manifest's columns: ours, near misses, other tools'. Reads no rows.

Blanks around one of our names and its case do not matter. A column that is probably meant to be
one of ours, but has another name, is refused: as an unknown column it would change nothing, and
rows that differ only there would be taken for repetitions. All other columns are kept in `extra`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from pipeline.errors import ManifestError

KNOWN = (
    *("audio", "recording_id", "offset_s", "duration_s", "channel", "language"),
    *("audio_version", "audio_bytes"),
)

# Names that other tools and people give to our columns, without blanks, _, - and . in them.
# NeMo, Kaldi, ESPnet, Lhotse, FunASR, WeNet, SpeechBrain, Hugging Face, Audacity, Common Voice.
_OTHER_NAMES = {
    "audio": "audiofilepath audiopath audiofile audiouri audiourl audioname wav wavpath wavfile "
    "wavuri path file filepath filename uri url source src sound media location",
    "recording_id": "id key utt uttid utteranceid recid recordid audioid fileid uid uuid sampleid "
    "clipid itemid",
    "offset_s": "offset start begin onset starts starttime startsec startsecs startseconds startms "
    "begins begintime beginsec beginms offsetsec offsetsecs offsetseconds offsetms offsettime "
    "timestart timebegin tstart tbegin tbeg tmin xmin audiostart segmentstart segstart clipstart "
    "startoffset",
    "duration_s": "duration dur length len lengths end stop ends endtime endsec endsecs endseconds "
    "endms stoptime durationms durationsec durationsecs durationseconds durs lengthsec "
    "lengthseconds lengthms timeend tend tmax xmax audioduration audiolength audioend segmentend "
    "segend clipend segmentduration clipduration endoffset",
    "language": "lang langid languageid lid locale languagecode langcode sourcelang srclang "
    "sourcelanguage audiolang spokenlanguage",
}
_OURS = {name: own for own, names in _OTHER_NAMES.items() for name in names.split()}
_NEAR = {re.sub("_", "", name): name for name in KNOWN}
_UNITS = {
    "offset_s": "seconds from the start of the file",
    "duration_s": "a length in seconds, not an end",
}


def own_names(names: Sequence[str]) -> dict[str, str]:
    """Given name -> the name that this program uses, for every column of a file or of one row.

    Raises ManifestError for two columns with one name, and for a column that should have one of our
    names while the column of that name is absent.
    """
    renamed = {name: _fold(name) if _fold(name) in KNOWN else name for name in names}
    used = [renamed[name] for name in names]
    if repeated := sorted({name for name in used if used.count(name) > 1}):
        raise ManifestError(f"two columns have the name {repeated[0]!r}; rename one")
    meant = _meant(used)
    if meant and "audio" not in meant.values():
        raise ManifestError(_explain(meant))
    return renamed


def check_audio(names: Sequence[str]) -> None:
    """Raise ManifestError, with a hint, if there is no column `audio`."""
    if "audio" in names:
        return
    found = ", ".join(repr(name[:200]) for name in names[:20])
    raise ManifestError(f"no column 'audio'; found {found or 'none'}{_hint(names)}")


def check_types(schema: pa.Schema) -> None:
    """Raise ManifestError for one of our columns that cannot be text or a number."""
    for field in schema:
        own = _fold(field.name)
        is_text = not holds_bytes(field.type)
        if own == "audio" and pa.types.is_nested(field.type):
            is_text = False
        if own in KNOWN and not is_text:
            raise ManifestError(
                f"column {field.name!r} holds {str(field.type)[:200]}, not text: audio inside a "
                "manifest is not read; write it to files, and name their paths in 'audio'"
                if own == "audio"
                else f"column {field.name!r} holds {str(field.type)[:200]}; write it as text"
            )


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type contain binary data, at any depth."""
    if pa.types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_view = str(kind) == "binary_view"
    return not is_text and (is_binary or is_view or pa.types.is_fixed_size_binary(kind))


def _fold(name: str) -> str:
    return name.strip("\ufeff \t\r\n\u00a0\u200b").lower()


def _squash(name: str) -> str:
    return re.sub(r"[\s_.\-]+", "", _fold(name))


def _meant(names: Sequence[str]) -> dict[str, str]:
    """Column -> our column that it is probably meant to be, where that one is absent."""
    meant = {}
    for name in names:
        squashed = _squash(name)
        own = _OURS.get(squashed) or next(
            (own for near, own in _NEAR.items() if _is_one_step(squashed, near)), ""
        )
        if own and own not in names:
            meant[name] = own
    return meant


def _is_one_step(text: str, wanted: str) -> bool:
    """Whether at most one letter is missing, added, changed or swapped with its neighbour."""
    if abs(len(text) - len(wanted)) > 1:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b),
        min(len(text), len(wanted)),
    )
    rest, aim = text[start:], wanted[start:]
    swapped = rest[1:2] + rest[:1] + rest[2:]
    return aim in (rest, swapped) or rest[1:] in (aim, aim[1:]) or rest == aim[1:]


def _explain(meant: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name!r} -> {own!r}" for name, own in meant.items())
    units = "; ".join(f"{own} is {_UNITS[own]}" for own in _UNITS if own in meant.values())
    name = next(iter(meant))
    return (
        f"columns that this program would not use: rename {pairs}"
        + (f" ({units})" if units else "")
        + f"; if {name!r} is other data, give it another name, for example {'x_' + name.strip()!r}"
    )


def _hint(names: Sequence[str]) -> str:
    if len(names) == 1 and (hint := _hint_for_line(names[0])):
        return hint
    meant = _meant(names)
    own = [name for name, ours in meant.items() if ours == "audio"]
    likely = own or [name for name in names if re.search("path|uri|url|file|wav", name, re.I)]
    if not likely:
        return ""
    others = [f", {name!r} to {ours!r}" for name, ours in meant.items() if ours != "audio"]
    return f"; rename {likely[0]!r} (nearest) to 'audio'{''.join(others)}"


def _hint_for_line(line: str) -> str:
    """What a first line that is no header of a CSV probably is."""
    first, *rest = line.split()
    if "|" in line and not line.rstrip().endswith("|"):
        return "; the columns are separated by '|', but only , ; and tab are read"
    if rest and re.search(r"/|\.\w{2,5}$|\|$", line):
        return (
            "; this looks like Kaldi's wav.scp: give the file that name, or write a CSV with the "
            "header recording_id,audio"
        )
    if len(rest) == 0 and re.search(r"/|\.\w{2,5}$", first):
        return "; this looks like a list of paths: write a first line that says audio"
    if rest:
        return "; the columns are separated by blanks, but only , ; and tab are read"
    return ""


def left_out(schema: pa.Schema) -> Iterable[str]:
    """Notes for the other columns that hold binary data, which `extra` does not keep."""
    for field in schema:
        if holds_bytes(field.type) and _fold(field.name) not in KNOWN:
            kind = str(field.type)[:80]
            yield f"column {field.name!r} holds binary data ({kind}); it is not kept"
