"""Write the segments of a snapshot in the formats of other tools.

Knows nothing of reports, evaluations or runs.
"""
