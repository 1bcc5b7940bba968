"""Which attempts the ledger takes. Pure: windows and ledger states in, a choice out.

The state of a recording is f"{work_key}:{attempts}" of its ledger row, "" without one. A window
says in `supersedes` which state it was planned against. That is a compare-and-swap per recording:
an attempt is taken only while the state is still the same, and taking it changes the state.
"""

from dataclasses import dataclass

import pandas as pd

WINDOW_KEYS = [
    "recording_id",
    "work_key",
    "attempt_id",
    "attempts",
    "window_index",
    "n_windows",
    "supersedes",
]


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of the windows of one fingerprint."""

    taken: pd.DataFrame  # windows to publish: bundle, row, attempt, recording_id, path (or "")
    n_dropped: int  # attempts refused now, for good
    n_waiting: int  # attempts whose other windows are still to come
    waiting: frozenset[str]  # bundles that hold windows of those
    settled: frozenset[str]  # bundles that hold windows taken or refused


def choose(windows: pd.DataFrame, known: pd.DataFrame, opened: frozenset[str]) -> Choice:
    """Take every attempt that is complete and planned against the present state, once.

    `windows` has WINDOW_KEYS, bundle and row, in the order of the bundles' keys; of several
    attempts, and of several copies of a window, the first wins. `known` has the recording_id,
    state and path of the ledger rows concerned. `opened` are bundles that an earlier commit took
    some recordings from: what is settled in them was counted then.
    """
    ledger = known.set_index("recording_id")
    windows = windows.assign(
        attempt=windows.groupby(["recording_id", "work_key", "attempt_id"], sort=False).ngroup(),
        state=windows["recording_id"].map(ledger["state"]).fillna(""),
        path=windows["recording_id"].map(ledger["path"]).fillna(""),
    )
    windows["is_fresh"] = windows["supersedes"] == windows["state"]
    copies = windows.drop_duplicates(["attempt", "window_index"])
    attempts = copies.groupby("attempt", sort=True).agg(
        recording_id=("recording_id", "first"),
        is_fresh=("is_fresh", "all"),
        n_present=("window_index", "size"),
        last_index=("window_index", "max"),
        n_windows=("n_windows", "max"),
    )
    is_complete = (attempts["n_present"] == attempts["n_windows"]) & (
        attempts["last_index"] + 1 == attempts["n_windows"]
    )
    # Attempts are numbered in the order of their first bundle's key.
    winners = attempts[attempts["is_fresh"] & is_complete].drop_duplicates("recording_id")
    is_taken = windows["attempt"].isin(winners.index)
    is_won = windows["recording_id"].isin(winners["recording_id"])
    is_waiting = windows["is_fresh"] & ~is_won
    is_new = is_won | ~windows["bundle"].isin(opened)
    return Choice(
        taken=copies.loc[
            copies["attempt"].isin(winners.index),
            ["bundle", "row", "attempt", "recording_id", "path"],
        ],
        n_dropped=windows.loc[~is_taken & ~is_waiting & is_new, "attempt"].nunique(),
        n_waiting=windows.loc[is_waiting, "attempt"].nunique(),
        waiting=frozenset(windows.loc[is_waiting, "bundle"]),
        settled=frozenset(windows.loc[~is_waiting, "bundle"]),
    )
