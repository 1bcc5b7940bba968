"""The four stages that a row goes through: decode, segment, label, write.

Only here does an exception become columns of a row. A recording that fails keeps its row, with the
reason, and the later stages pass it on unchanged. A worker that fails (its model does not load)
raises, and the run stops. Knows nothing of Ray or commits.

SystemExit is caught beside Exception: a library that calls sys.exit inside an actor makes Ray hang
(ray#62746).
"""
