"""The four functions that a row passes: decode, segment, label, write.

Only here does an exception become columns of a row. Knows nothing of Ray or commits.
"""
