"""A given text to the frames of a recording: forced alignment by CTC. Knows tokens, no rows.

The text of a recording is aligned with the frames of all its segments, one after the other, and
divided where they meet. The best path is torchaudio's (functional.forced_align: Viterbi over the
log-probabilities of the text's tokens and of blank).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.errors import ErrorType, RecordingError
from pipeline.models.sensevoice.decoding import BLANK, ClipOutput, Vocabulary
from pipeline.models.sensevoice.words import TokenRun, begins_word
from pipeline.schema import N_PROMPT_FRAMES


def tokens_of(text: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens of a text. Raises RecordingError(BadText) if a part of it has none."""
    ids = vocabulary.encode(" ".join(text.split()))
    if not ids:
        raise RecordingError(ErrorType.BAD_TEXT, "label.align: the text of the manifest is empty")
    if BLANK in ids:
        raise RecordingError(
            ErrorType.BAD_TEXT,
            f"the vocabulary has no piece for {vocabulary.unknown_in(text)!r} of the text",
        )
    return ids


def wanted_tokens(ids: Sequence[int]) -> list[int]:
    """The tokens whose log-probabilities `align` needs, ascending: those of the text, and blank."""
    return sorted({BLANK, *ids})


def align(
    outputs: Sequence[ClipOutput], ids: Sequence[int], vocabulary: Vocabulary
) -> list[list[TokenRun]]:
    """The tokens of a text in the segments of its recording: for each segment those inside it.

    `outputs` have the log-probabilities of wanted_tokens(ids), in the order of time. A word that
    begins in a segment is whole in it. Raises RecordingError(BadText) if the frames are too few.
    """
    frames = [output.wanted[N_PROMPT_FRAMES:] for output in outputs if output.wanted is not None]
    n_frames = sum(map(len, frames))
    n_needed = len(ids) + sum(one == other for one, other in pairwise(ids))
    if n_needed > n_frames:
        raise RecordingError(
            ErrorType.BAD_TEXT,
            f"the text has {len(ids)} tokens and needs {n_needed} frames of 60 ms; its segments "
            f"have {n_frames}",
        )
    runs = _best_path(np.concatenate(frames), ids)
    edges = np.cumsum([0, *map(len, frames)])
    return _divide(runs, edges.tolist(), vocabulary)


def _best_path(log_probs: np.ndarray, ids: Sequence[int]) -> list[TokenRun]:
    """float32 (n_frames, n_wanted) -> each token with its frames and best probability."""
    import torch
    from torchaudio.functional import forced_align

    columns = np.searchsorted(wanted_tokens(ids), ids)
    path, scores = forced_align(
        torch.from_numpy(np.ascontiguousarray(log_probs))[None],
        torch.from_numpy(columns.astype(np.int32))[None],
        blank=0,
    )
    of_frame, score = path[0].numpy(), scores[0].numpy()
    firsts = [0, *(np.flatnonzero(of_frame[1:] != of_frame[:-1]) + 1).tolist(), len(of_frame)]
    spoken = [(first, end) for first, end in pairwise(firsts) if of_frame[first]]
    return [
        TokenRun(token, first, end, float(np.exp(score[first:end].max())))
        for token, (first, end) in zip(ids, spoken, strict=True)
    ]


def _divide(
    runs: Sequence[TokenRun], edges: Sequence[int], vocabulary: Vocabulary
) -> list[list[TokenRun]]:
    """The runs of each segment, whose frames are from its edge to the next, counted from there."""
    divided: list[list[TokenRun]] = [[] for _ in edges[1:]]
    place = 0
    for number, run in enumerate(runs):
        if number == 0 or begins_word(vocabulary.pieces[run.token]):
            place = int(np.searchsorted(edges, run.first, side="right")) - 1
        first, last = (
            min(max(frame - edges[place], 0), edges[place + 1] - edges[place])
            for frame in (run.first, run.last)
        )
        divided[place].append(run._replace(first=first, last=last))
    return divided
