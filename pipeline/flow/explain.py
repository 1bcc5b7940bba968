"""Ray's errors in one line. Knows no stage."""

from ray.exceptions import ActorDiedError, RayTaskError

from pipeline.errors import RoundEnded, RunStopped


def explain(error: Exception) -> Exception:
    """Ray's error in one line: RunStopped if a model or the code fails, else RoundEnded."""
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return RunStopped(f"a worker cannot start: {last_line(error)}")
    if isinstance(error, RayTaskError):
        return RunStopped(f"a worker failed: {last_line(error)}")
    return RoundEnded(f"{type(error).__name__}: {last_line(error)}")


def explain_no_progress(no_progress_s: float) -> str:
    """Message for a run that stopped because no row batch moved for `ray.no_progress_s`."""
    return (
        f"no stage made progress for {no_progress_s:.0f} s (ray.no_progress_s). Check that the "
        "nodes that the workers need have joined the cluster, and that the store answers; then run "
        "the same command again. ray.no_progress_s=0 waits for as long as it takes"
    )


def last_line(error: Exception) -> str:
    """The last line of a worker's traceback, which is the error itself."""
    return str(error).strip().rpartition("\n")[2].strip()
