"""Environment variables that Ray reads while it is imported or started. Does not import Ray."""

import os

_DEFAULTS = {
    # Started under `uv run`, Ray would pack the working directory and rebuild the environment for
    # its workers; on one machine that is a waste.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # ray#57733: harmless lines that look like errors
    "RAY_worker_niceness": "0",  # the default, 15, starves workers on a laptop
    "RAY_task_oom_retries": "2",  # by default without limit
}


def prepare_environment() -> None:
    """Set what the user has not set. Call it before the first `import ray` of the process.

    Ray's C++ settings (the last two) are read once, while its library is loaded
    (RayConfig::instance); the processes that Ray starts inherit them in any case.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
