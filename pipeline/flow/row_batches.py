"""Cut planned rows into row batches of about equal seconds of audio. Knows numbers; no Ray."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrow import Column, pc, to_mask
from pipeline.storage.address import MEMBER

# Of an audio file: twice 16 kHz WAV, four times MP3. Too high is better than too low: a task with
# too much audio is cut after decoding, one with too little stays small.
_BYTES_PER_S = 64_000.0
_SECONDS = 10.0  # of a recording whose length and size are unknown
_TOGETHER_S = 3600.0  # of parts of one file
_PACKED = r"(?i)(\.tgz|\.gz|\.zst|\.zstd|\.bz2)$"  # archives that are read from their front only
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
    todo, starts = _by_file(todo)
    groups = group_by_seconds(
        np.add.reduceat(guess_seconds(todo), starts) if len(starts) else np.zeros(0),
        batch_audio_s,
        n_least=math.ceil(_BATCHES_PER_CPU * n_cpus),
        n_most=_MAX_BATCHES,
    )
    edges = [*starts.tolist(), todo.num_rows]
    return [
        todo.slice(edges[group.start], edges[group.stop] - edges[group.start]) for group in groups
    ]


def _by_file(todo: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The rows with the parts of each file side by side, by time, and where each file begins.

    Parts of one file are decoded in one pass if they are in one row batch. So they stay together,
    up to an hour of them; whole files stay where they are. Members of an archive come in its order,
    so that a row batch reads it from front to back; what can only be read from its front, the whole
    of a compressed tar or a row group of parquet, stays together, too.
    """
    todo, unit = _by_archive(todo)
    file = _codes(todo["uri"])
    is_part = todo["length_s"].to_numpy() > 0
    if unit is None and (not is_part.any() or len(np.unique(file)) == todo.num_rows):
        return todo, np.arange(todo.num_rows)
    _, first = np.unique(file, return_index=True)
    order = np.lexsort((todo["offset_s"].to_numpy(), first[file]))
    todo, file, is_part = todo.take(order), file[order], is_part[order]
    hour = np.floor(np.cumsum(todo["length_s"].to_numpy()) / _TOGETHER_S)
    is_new = np.append(True, (file[1:] != file[:-1]) | ~is_part[1:] | (hour[1:] != hour[:-1]))
    if unit is not None:
        unit = unit[order]
        is_new[1:] &= (unit[1:] != unit[:-1]) | (unit[1:] < 0)
    return todo, np.flatnonzero(is_new[: todo.num_rows])


def _by_archive(todo: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64] | None]:
    """The rows with the members of each archive in its order, and what each has to be read with.

    That is a number, -1 for what can be read on its own; None if there are no archives.
    """
    start = todo["start"].to_numpy()
    if not start.any():
        return todo, None
    archive = pc.replace_substring_regex(todo["uri"], MEMBER, "")
    code = _codes(archive)
    _, first = np.unique(code, return_index=True)
    order = np.lexsort((start, first[code]))
    todo, code, start = todo.take(order), code[order], start[order]
    uri, archive = todo["uri"], archive.take(order)
    is_packed = to_mask(pc.match_substring_regex(archive, _PACKED)) & (start > 0)
    is_parquet = to_mask(pc.starts_with(uri, "parquet://")) & (start > 0)
    group = np.where(is_parquet, start >> 32, 0)
    unit = np.unique(np.stack([code, group], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return todo, np.where(is_packed | is_parquet, unit, -1)


def _codes(texts: Column) -> npt.NDArray[np.int64]:
    """A number for each text, the same for equal ones."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    return np.asarray(texts.dictionary_encode().indices.to_numpy(), np.int64)


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
