"""The model online: many clients share its batches. Labels are those of a run, by the same code."""
