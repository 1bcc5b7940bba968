"""One run, from the configuration to committed tables.

Knows nothing of screens.
"""
