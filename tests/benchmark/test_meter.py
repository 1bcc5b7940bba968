"""The costs of measuring are there for each kind of audio, and shown as shares."""

from rich.console import Console

from pipeline.benchmark.meter import KINDS, MeterCost, measure_meter, show_meter


def test_each_kind_of_audio_has_costs() -> None:
    costs = measure_meter(repeats=1)
    assert [(cost.rate_hz, cost.channels) for cost in costs] == list(KINDS)
    for cost in costs:
        assert 0 < cost.segments_ms < cost.total_ms
        assert 0 < cost.bandwidth_ms < cost.total_ms


def test_a_cost_is_shown_as_a_share_of_labelling() -> None:
    console = Console(width=200, record=True)
    show_meter(console, [MeterCost(16_000, 1, 0.15, 0.06, 0.03, 0.06)], 15.0)
    text = console.export_text()
    assert "0.150 (1.0%)" in text
    assert "0.300 (2.0%)" in text
