"""Score the labels of a snapshot.

Knows nothing of runs.
"""
