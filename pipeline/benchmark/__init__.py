"""Measure the cost of labelling, and compare it with other software that runs SenseVoice.

Imported by jobs only.
"""
