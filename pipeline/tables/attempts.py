"""Choose which attempts at recordings to commit. Pure: windows and ledger states in, a choice out.

An attempt is all windows of a recording that one decode task made. Each window names in
`supersedes` the ledger state (manifest.keys.ledger_states, "" without a ledger row) that its work
was planned against. This is a compare-and-swap per recording: an attempt is committed only while
the recording is still in that state, and committing it changes the state.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """What to do with the windows of one fingerprint."""

    taken: "pd.DataFrame"  # windows to publish: bundle, row, attempt, recording_id, path (or "")
    n_dropped: int  # attempts refused now, for good
    n_waiting: int  # attempts whose other windows have not arrived
    waiting: frozenset[str]  # bundles with windows of waiting attempts
    settled: frozenset[str]  # bundles with windows of taken or refused attempts


def choose_attempts(
    windows: "pd.DataFrame", known: "pd.DataFrame", opened: frozenset[str]
) -> Choice:
    """Take each attempt that is complete and was planned against the present ledger state, once.

    `windows` has the columns WINDOW_KEYS, bundle and row, ordered by the keys of the bundles. Of
    several attempts at a recording, and of several copies of a window, the first wins. `known` has
    recording_id, state and path of the ledger rows of these recordings. `opened` are bundles of
    which an earlier commit took some recordings; it counted their dropped attempts.
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
