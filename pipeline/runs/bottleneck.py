"""Which stage limited a run, and what to change. Knows busy seconds and settings, not Ray."""

from collections.abc import Mapping

from pipeline.config import RunConfig, label_precision

MIN_WALL_S = 60.0  # in less, the first and the last row batch count for too much
BUSY = 0.7  # share of its workers' time from which a stage counts as the bottleneck


def find_bottleneck(busy_s: Mapping[str, float], wall_s: float, config: RunConfig) -> str:
    """One sentence of advice, or "" for a run that is too short.

    `busy_s` is by schema.STAGES; it and `wall_s` count from the first labelled row, because before
    it every worker waits for Ray and for models.

    Ray counts the wait of a label worker's second call as busy, so the share of `label` may be too
    high. Therefore `label` is named only if `segment` was less busy.
    """
    if wall_s < MIN_WALL_S:
        return ""
    ray = config.ray
    n_segment = max(ray.segment_workers, ray.segment_workers_max)
    n_label = max(ray.label_workers, ray.label_workers_max)
    segment = min(1.0, busy_s.get("segment", 0.0) / (wall_s * n_segment))
    label = min(1.0, busy_s.get("label", 0.0) / (wall_s * n_label))
    if segment >= BUSY and segment >= label:
        instead = ", or ray.segment_with_model: true, on the GPU" if ray.num_gpus else ""
        return (
            f"Finding segments was the bottleneck ({segment:.0%} busy): raise ray.segment_workers "
            f"({n_segment} now){instead}."
        )
    if label >= BUSY:
        return f"The model was the bottleneck ({label:.0%} busy): {_faster_model(config)}."
    return (
        f"Workers waited for audio (finding segments {segment:.0%}, model {label:.0%} busy): use "
        "more CPUs for decoding, a nearer store, or a codec that decodes faster (WAV, FLAC, MP3)."
    )


def _faster_model(config: RunConfig) -> str:
    if config.ray.num_gpus:
        return "add GPUs (ray.label_workers), or raise label.batch_s and ray.batch_audio_s"
    if label_precision(config) == "fp32":
        return "add cores (ray.label_workers) or a GPU, or try label.precision int8"
    return "add cores (ray.label_workers) or a GPU"
