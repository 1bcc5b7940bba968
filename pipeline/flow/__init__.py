"""Run the stages on Ray Data and continue when workers crash.

Knows nothing of planning or publishing. Only this room imports ray.
"""
