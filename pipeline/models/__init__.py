"""Turn waveforms into speech segments, tokens and probabilities.

Knows nothing of runs, tables or Ray. torch is imported here and in `benchmark`, nowhere else.
"""
