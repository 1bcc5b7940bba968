"""Keep an output small, complete and verifiable.

Knows nothing of runs.
"""
