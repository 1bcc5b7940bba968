"""Cut planned rows into row batches of about equal seconds of audio. Knows numbers; no Ray."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Of an audio file: twice 16 kHz WAV, four times MP3. Too high is better than too low: a task with
# too much audio is cut after decoding, one with too little stays small.
_BYTES_PER_S = 64_000.0
_SECONDS = 10.0  # of a recording whose length and size are unknown
_MAX_BATCHES = 10_000  # in one round; the driver keeps track of an object for each
_BATCHES_PER_CPU = 4  # at least, for a small corpus, so that no CPU waits for the last batch


def cut_row_batches(
    todo: pa.Table, batch_audio_s: float, n_cpus: float, *, isolate: bool = False
) -> list[pa.Table]:
    """Planned rows in row batches of about `batch_audio_s` each, as estimated before decoding.

    A row batch is one decode task, whose windows are then cut into blocks by their bytes. With
    `isolate` every row is a row batch of its own.
    """
    if isolate:
        return [todo.slice(index, 1) for index in range(todo.num_rows)]
    groups = group_by_seconds(
        guess_seconds(todo),
        batch_audio_s,
        n_least=math.ceil(_BATCHES_PER_CPU * n_cpus),
        n_most=_MAX_BATCHES,
    )
    return [todo.slice(group.start, group.stop - group.start) for group in groups]


def guess_seconds(todo: pa.Table) -> npt.NDArray[np.float64]:
    """(n_rows,) Estimated seconds of audio of each planned row: from the manifest, else its bytes.

    The estimate ignores the codec; it is good enough to distribute work.
    """
    length_s = todo["length_s"].to_numpy()
    by_bytes = todo["bytes"].to_numpy() / _BYTES_PER_S
    seconds = np.where(length_s > 0, length_s, np.where(by_bytes > 0, by_bytes, _SECONDS))
    return np.asarray(seconds, np.float64)


def group_by_seconds(
    seconds: npt.NDArray[np.float64], target_s: float, n_least: int, n_most: int
) -> list[slice]:
    """Consecutive rows in groups of about `target_s`, in order; no group is empty.

    A small corpus is cut into smaller groups, `n_least` of them or single rows, so that every
    worker has work; a huge corpus into larger groups, `n_most` of them.
    """
    total_s = float(seconds.sum())
    if not len(seconds):
        return []
    target_s = max(min(target_s, total_s / max(1, n_least)), total_s / n_most)
    if target_s <= 0:  # no row has a known length
        seconds, target_s = np.ones(len(seconds)), math.ceil(len(seconds) / max(1, n_least))
    middles = np.cumsum(seconds) - seconds / 2
    groups = np.floor(middles / target_s)
    starts = np.flatnonzero(np.diff(groups, prepend=-1.0))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(seconds)], strict=True)]
