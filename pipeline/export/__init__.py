"""Write the segments of a snapshot in the formats of other tools, and read corrections back.

Knows nothing of reports, evaluations or runs.
"""
