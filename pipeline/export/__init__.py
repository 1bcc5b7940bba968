"""Write the segments of a snapshot in formats that other tools read.

Knows nothing of reports, evaluations or runs.
"""
