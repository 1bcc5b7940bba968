"""Find speech: FSMN-VAD, Silero or none; frames to intervals, intervals to segments."""
