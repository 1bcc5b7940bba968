"""README.md of an export for the Hugging Face Hub: how it was made and what its columns are."""

from collections.abc import Mapping
from typing import Any

from pipeline.schema import SAMPLE_RATE

_DATA = {"audiofolder": "metadata.jsonl and audio/", "parquet": "data/train-*.parquet"}
HUB_FORMATS = frozenset(_DATA)

_CARD = """\
---
task_categories:
- automatic-speech-recognition
tags:
- audio
- emotion
---
# Labelled segments

{n_segments:,} segments of {n_recordings:,} recordings, {hours:.3f} h, in {data}. One split: train.
`text` and all labels come from a model; they are not checked by hand. A segment without words has
an empty `text`.

| column | meaning |
|---|---|
| `audio` | the segment, {rate} Hz, mono |
| `segment_id`, `recording_id` | keys of the tables that it was exported from |
| `start_s`, `end_s`, `duration_s` | where it is in its recording, in seconds |
| `text`, `language`, `emotion`, `event` | labels of SenseVoice in lower case; `unknown`: none |
| `confidence` | mean probability of the tokens of the text |

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
            "data": _DATA[facts["format"]],
            "rate": SAMPLE_RATE,
            "where": f"`{condition}`" if condition else "none, all segments",
        }
    )
