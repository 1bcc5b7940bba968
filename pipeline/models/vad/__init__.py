"""Find speech with FSMN-VAD, Silero or no VAD, and join it to segments."""
