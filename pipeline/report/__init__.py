"""The dataset card: one HTML page about a snapshot.

Reads a snapshot; knows nothing of exports, evaluations or runs.
"""
