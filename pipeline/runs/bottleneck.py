"""Which stage held a run up, and what would help. Knows busy seconds and knobs, no engine."""

from collections.abc import Mapping

from pipeline.config import RunConfig, label_precision

MIN_WALL_S = 60.0  # under it, starting Ray and loading models are what takes time
BUSY = 0.7  # of its workers' time: such a stage sets the pace


def find_bottleneck(busy_s: Mapping[str, float], wall_s: float, config: RunConfig) -> str:
    """One sentence, or "" for a run too short to tell; `busy_s` by the names of the stages.

    Ray counts the wait of a label worker's second call as busy, so its share may read high; the
    later stage is therefore named only when the earlier one had time to spare.
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
            f"Finding segments set the pace ({segment:.0%} busy): raise ray.segment_workers "
            f"({n_segment} now){instead}."
        )
    if label >= BUSY:
        return f"The model set the pace ({label:.0%} busy): {_faster_model(config)}."
    return (
        f"Workers waited for audio (finding segments {segment:.0%}, model {label:.0%} busy): more "
        "CPUs for decoding, a store nearer by, or a codec that decodes faster (WAV, FLAC, MP3)."
    )


def _faster_model(config: RunConfig) -> str:
    if config.ray.num_gpus:
        return "add GPUs (ray.label_workers), or raise label.batch_s and ray.batch_audio_s"
    if label_precision(config) == "fp32":
        return "add cores (ray.label_workers) or a GPU, or try label.precision int8"
    return "add cores (ray.label_workers) or a GPU"
