"""The order of review: frozen, few of one recording, with an even random share."""

from dataclasses import dataclass

from pipeline.explorer.queue import freeze


@dataclass
class Corpus:
    n: int

    def sample(self, where: str, size: int, seed: int) -> list[str]:
        return [f"s{(7 * number + seed) % self.n:03d}" for number in range(min(size, self.n))]

    def most_uncertain(self, where: str, size: int, most_each: int) -> list[str]:
        return [f"s{number:03d}" for number in range(min(size, self.n))]


def test_a_queue_holds_each_segment_once_and_the_random_share_evenly() -> None:
    queue = freeze(Corpus(1000), "", 100, 0.2, seed=3)
    assert len(set(queue.segment_ids)) == 100
    assert queue.n_random == 20
    places = [place for place, kind in enumerate(queue.samples) if kind]
    assert places == [2 + 5 * number for number in range(20)]


def test_a_queue_is_the_same_for_the_same_seed() -> None:
    assert freeze(Corpus(50), "x", 20, 0.5, 1) == freeze(Corpus(50), "x", 20, 0.5, 1)


def test_no_filter_limits_what_is_drawn_by_chance() -> None:
    asked: list[str] = []

    class Noting(Corpus):
        def sample(self, where: str, size: int, seed: int) -> list[str]:
            asked.append(where)
            return super().sample(where, size, seed)

    freeze(Noting(50), "language = 'yue'", 10, 0.5, 0)
    assert asked == [""]


def test_a_small_corpus_makes_a_short_queue() -> None:
    queue = freeze(Corpus(3), "", 100, 0.5, seed=0)
    assert sorted(queue.segment_ids) == ["s000", "s001", "s002"]


def test_all_or_none_may_be_drawn() -> None:
    assert freeze(Corpus(50), "", 10, 1.0, 0).n_random == 10
    assert freeze(Corpus(50), "", 10, 0.0, 0).n_random == 0
