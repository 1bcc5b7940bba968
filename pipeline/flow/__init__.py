"""Run the stages on Ray Data and survive workers that die.

Knows nothing of planning or publishing. ray is imported here and nowhere else.
"""
