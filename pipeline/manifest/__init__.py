"""Turn any list of recordings into checked rows with unique ids.

Knows nothing of what is done already, nor of audio.
"""
