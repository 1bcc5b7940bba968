"""Decide what is still to do, and estimate what it will cost.

Knows nothing of how the work is done.
"""
