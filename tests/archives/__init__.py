"""Tests of pipeline/archives, and of what other rooms do with recordings in archives."""
