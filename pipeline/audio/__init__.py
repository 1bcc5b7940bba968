"""Turn the bytes of a file into windows of 16 kHz mono samples.

Knows nothing of speech, nor of torch.
"""
