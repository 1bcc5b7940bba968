"""Environment variables that Ray reads when it is imported or started. Does not import Ray."""

import os

_DEFAULTS = {
    # Under `uv run`, Ray packs the working directory and rebuilds the environment for its workers.
    # On one machine that is not needed.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # ray#57733: it logs harmless lines that look like errors
    "RAY_worker_niceness": "0",  # the default, 15, starves workers on a laptop
    "RAY_task_oom_retries": "2",  # the default has no limit
}


def prepare_environment() -> None:
    """Set the variables that the user has not set. Call it before the first `import ray`.

    Ray reads its C++ settings (the last two) once, when its library is loaded
    (RayConfig::instance). The processes that Ray starts inherit them in any case.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
