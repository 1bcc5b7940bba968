"""README.md of an export for the Hugging Face Hub: how it was made and what its columns are."""

from collections.abc import Mapping
from typing import Any

from pipeline.schema import SAMPLE_RATE

_DATA = {"audiofolder": "metadata.jsonl and audio/", "parquet": "data/train-*.parquet"}
HUB_FORMATS = frozenset(_DATA)

_SOURCE = {
    "ignore": "`text` and all labels come from a model; they are not checked by hand.",
    "exclude": "`text` and all labels come from a model; they are not checked by hand.",
    "only": "`text` and all labels were checked by people.",
    "prefer": "`text` and all labels come from a model; where people corrected them, from these.",
}

_CARD = """\
---
task_categories:
- automatic-speech-recognition
tags:
- audio
- emotion
---
# Labelled segments

{n_segments:,} segments of {n_recordings:,} recordings, {hours:.3f} h, in {data}. {splits}.
{source} A segment without words has
an empty `text`.

| column | meaning |
|---|---|
| `audio` | the segment, {rate} Hz, mono |
| `segment_id`, `recording_id` | keys of the tables that it was exported from |
| `start_s`, `end_s`, `duration_s` | where it is in its recording, in seconds |
| `text`, `language`, `emotion`, `event` | labels of SenseVoice in lower case; `unknown`: none |
| `confidence` | mean probability of the tokens of the text; null without text |
| `split` | train or test; a recording, and a speaker, is in one of them only |
| `extra` | the other columns of the manifest, as JSON |

Commit {seq}, fingerprint `{fingerprint}`. Condition: {where}.
"""


def hub_card(facts: Mapping[str, Any]) -> str:
    """The text of README.md, from the fields of write.Exported.

    It names no folder or store, because such a directory is published.
    """
    condition = " ".join(facts["where"].replace("`", "'").split())
    return _CARD.format_map(
        {
            **facts,
            "splits": f"Test: {facts['n_test']:,} of them"
            if facts["n_test"]
            else "One split: train",
            "source": _SOURCE[facts["reviewed"]],
            "data": _DATA[facts["format"]],
            "rate": SAMPLE_RATE,
            "where": f"`{condition}`" if condition else "none, all segments",
        }
    )
