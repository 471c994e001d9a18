"""Random keys and values, and the list of words, from the `wonderwords` package (read, not imported)."""

import importlib.util
from functools import lru_cache
from pathlib import Path
from random import Random
from uuid import UUID

TRIES = 100  # for something not drawn before


@lru_cache(maxsize=1)
def read_words() -> tuple[list[str], list[str], list[str]]:
    """(nouns, adjectives, verbs), each distinct and sorted. Raises ValueError without wonderwords."""
    spec = importlib.util.find_spec("wonderwords")
    if spec is None:
        raise ValueError("RULER's words come from the wonderwords package: pip install wonderwords==3.0.1")
    lists = []
    for kind in ("noun", "adjective", "verb"):
        path = Path(spec.submodule_search_locations[0]) / "assets" / f"{kind}list.txt"
        lines = path.read_text(encoding="utf-8").splitlines()
        lists.append(sorted({line.strip() for line in lines} - {""}))
    return tuple(lists)


def all_words() -> list[str]:
    """The distinct words of all three kinds, sorted."""
    return sorted(set().union(*read_words()))


def word(rng: Random) -> str:
    """adjective-noun, uniform over the distinct pairs: no pair can be read in two ways (a test says so), so that the
    6.17 million of them need not be listed."""
    nouns, adjectives, _ = read_words()
    draw = rng.random  # its numbers are the same in every version of Python, and soon drawn
    return f"{adjectives[int(draw() * len(adjectives))]}-{nouns[int(draw() * len(nouns))]}"


def number(rng: Random) -> str:
    """Seven digits, the first not 0."""
    return str(1_000_000 + int(rng.random() * 9_000_000))


def identifier(rng: Random) -> str:
    """A version-4 UUID (RFC 9562)."""
    return str(UUID(int=rng.getrandbits(128), version=4))


DRAW = {"words": word, "numbers": number, "uuids": identifier}


def draw_new(draw, rng: Random, taken: set[str]) -> str:
    """A draw that is not in `taken`; it is then. (RULER does not look for repeats, which make a question ambiguous.)"""
    for _ in range(TRIES):
        drawn = draw(rng)
        if drawn not in taken:
            taken.add(drawn)
            return drawn
    raise ValueError(f"no new {draw.__name__} in {TRIES} draws")
