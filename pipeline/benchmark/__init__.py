"""Measure what labelling costs, beside other ways to run SenseVoice.

Imported by jobs only.
"""
