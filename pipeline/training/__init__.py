"""Fine-tune SenseVoice on rows with labels, and accept the result by its scores.

Knows nothing of runs.
"""
