"""The SenseVoice model: features of clips in, labels and their probabilities out."""
