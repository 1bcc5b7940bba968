"""Tests of sensevoice-pipeline, in the folders of the rooms."""

import os

# Two cores, small models, several processes: threads of torch would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
