"""The list of mutants fits the code; planting them takes long and is done by hand (mutants.py)."""

import ast
from collections import Counter

import pytest

from tests.support.mutants import ROOT, Mutant, load_mutants

MUTANTS = load_mutants()


@pytest.mark.parametrize("path", sorted({mutant.path for mutant in MUTANTS}))
def test_the_text_of_every_mutant_still_occurs_once(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for mutant in MUTANTS:
        if mutant.path == path:
            faulty = mutant.apply(text)
            assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(text)), mutant.name


def test_every_mutant_has_a_name_of_its_own_and_tests_that_exist() -> None:
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    assert len(MUTANTS) >= 100
    for mutant in MUTANTS:
        assert mutant.tests
        assert all((ROOT / test).exists() for test in mutant.tests), mutant.name


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    mutant = Mutant("name", "path", "old", "new", ("tests",))
    assert mutant.apply("an old line") == "an new line"
    for text in ("no such line", "old and old"):
        with pytest.raises(Exception, match="name: 'old' occurs"):
            mutant.apply(text)
