"""Browse, play and correct what one snapshot says, in a browser. See README.md in this folder.

Knows nothing of runs, training and serving.
"""
