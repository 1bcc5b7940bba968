"""Commit finished rows exactly once; read them as one snapshot.

Knows nothing of audio or models. See README.md in this folder for the commit protocol.
"""

from pipeline.tables.snapshots import Snapshot, connect, open_snapshot

__all__ = ["Snapshot", "connect", "open_snapshot"]
