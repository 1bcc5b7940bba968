"""The size of a corpus and the cost of its run, as texts and as facts for JSON. Opens no audio.

The console is that of commands.results.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from pipeline.config import RayConfig, RunConfig
from pipeline.console.plain_text import amount, counted, counts_text
from pipeline.errors import advice_for
from pipeline.planning.costs import MachineHours, Prices, wall_hours
from pipeline.planning.machine import available_cores
from pipeline.planning.survey import Survey

BUILT_IN_SPEEDS = "one core of an AMD EPYC; for yours: python -m jobs benchmark speed --json FILE"


@dataclass(frozen=True, slots=True)
class Budget:
    """Time on the clock and price of a run; None: not known."""

    wall_h: float | None
    price: float | None

    def facts(self) -> dict[str, float | None]:
        """For --json."""
        return {"wall_h": self.wall_h, "price": self.price}


def budget_of(
    cost: MachineHours, config: RunConfig, prices: Prices, *, has_workers: bool = True
) -> Budget:
    """What these machine hours mean for a run; `has_workers`: the configuration is the user's."""
    ray = config.ray
    n_cores = None if ray.address else ray.num_cpus or available_cores()
    return Budget(
        wall_h=wall_hours(cost, ray, n_cores) if has_workers else None, price=prices.of(cost)
    )


def show_costs(
    console: Console,
    survey: Survey,
    cost: MachineHours,
    budget: Budget,
    config: RunConfig,
    source: str = BUILT_IN_SPEEDS,
) -> None:
    """Print what a survey found and what the run will cost. `source`: of the speeds."""
    texts = _explain_cost(cost, source) | _explain_run(config.ray, budget.wall_h, budget.price)
    _show_survey(console, survey, texts)


def _show_survey(console: Console, survey: Survey, cost: Mapping[str, str]) -> None:
    """Print the size of a plan, estimated from a sample, its `cost`, and what would fail."""
    seconds, share = survey.seconds, survey.unreadable
    sampled = f"{survey.n_sampled:,} recordings"
    rows = {
        "sampled": f"the first bytes of {sampled}",
        "audio": f"{amount(seconds.value)}{_interval(amount(seconds.low), amount(seconds.high))}",
        "durations": f"median {survey.median_s:,.1f} s, longest {survey.longest_s:,.1f} s",
        "codecs": counts_text(survey.codecs),
        "unreadable": f"{share.value:.1%}{_interval(f'{share.low:.1%}', f'{share.high:.1%}')}",
        "errors": counts_text(survey.errors),
        **cost,
    }
    console.print()
    for name, text in rows.items():
        console.print(f"{name:<12}{text}")
    for kind, example in survey.examples.items():
        console.print(f"\n{kind} {survey.errors[kind]:,}, e.g. {example}", style="yellow")
        console.print(f"-> {advice_for(kind)}.")
    if survey.mostly_fails:
        console.print("\nMost recordings would fail: correct this before the run.", style="red")


def _interval(low: str, high: str) -> str:
    return f" ({low} to {high})" if low != high else ""


def _explain_cost(cost: MachineHours, source: str) -> dict[str, str]:
    """The machine hours of each stage, in words. `source`: where the speeds are from."""
    return {
        "decode": _machine_time(cost.decode_core_h, "core"),
        "segment": _machine_time(cost.segment_core_h, "core"),
        "label": _machine_time(cost.label_gpu_h, "GPU")
        if cost.label_gpu_h
        else _machine_time(cost.label_core_h, "core"),
        "recordings": f"{_machine_time(cost.recordings_core_h, 'core')}, whatever their length",
        "speeds": source,
    }


def _explain_run(ray: RayConfig, wall_h: float | None, price: float | None) -> dict[str, str]:
    """The time on the clock with the workers of a configuration, and the price, in words."""
    texts: dict[str, str] = {}
    if wall_h is not None:
        n_labelling = max(ray.label_workers, ray.label_workers_max)
        n_segmenting = max(ray.segment_workers, ray.segment_workers_max)
        texts["wall time"] = (
            f"{amount(wall_h * 3600)} with {counted(n_labelling, 'SenseVoice worker')} and "
            f"{counted(n_segmenting, 'VAD worker')}, without start-up"
        )
    if price is not None:
        texts["price"] = f"{price:,.2f}" if price >= 0.01 else f"{price:.2g}"
    return texts


def _machine_time(hours: float, machine: str) -> str:
    if hours < 0.1:
        return f"{hours * 3600:,.1f} {machine}-seconds"
    return f"{hours:,.2f} {machine}-hours"
