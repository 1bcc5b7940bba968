"""Read any URI safely; write objects that are complete or absent.

Knows nothing of manifests, tables or audio.
"""
