"""The prompts of the thirteen tasks: sized to their budget, answerable, distributed as RULER says."""

import re
from collections import Counter
from functools import lru_cache
from math import isqrt, pi

import pytest
from scipy.stats import chisquare

import solvers
import texts
from niah import DEPTHS, SENTENCE_END
from prepare import set_up
from task import Job
from tasks import read_tasks
from tokens import Tokens, read_tokenizer

SPECS = read_tasks("synthetic")
TASKS = list(SPECS)


class Maker:
    """Tasks for one tokenizer, each set up once."""

    def __init__(self, folder):
        self.tokens = Tokens(read_tokenizer(str(folder), False))
        self.task = lru_cache(self.set_up)

    def set_up(self, name, length=2048, profile="upstream"):
        family, args, new_tokens = (SPECS[name][key] for key in ("task", "args", "tokens_to_generate"))
        return set_up(Job(name, family, args, length, new_tokens, 500, 42, profile), self.tokens)

    def samples(self, name, n, *args):
        return [self.task(name, *args).build(index) for index in range(n)]


@pytest.fixture(scope="module")
def maker(tokenizer_folder):
    return Maker(tokenizer_folder)


@pytest.mark.parametrize("name", TASKS)
def test_every_prompt_keeps_its_budget_and_can_be_answered(maker, name):
    solve = getattr(solvers, SPECS[name]["task"])
    for length, profile in ((1536, "upstream"), (2048, "upstream"), (4096, "upstream"), (4096, "lceg")):
        task, fills = maker.task(name, length, profile), []
        for sample in maker.samples(name, 6, length, profile):
            counted = maker.tokens.count_whole(sample.prompt)  # BOS included
            assert counted == sample.tokens <= length - task.job.new_tokens
            assert sample.prompt.endswith(sample.prefix) and len(set(sample.answers)) == len(sample.answers)
            question = sample.prompt.rindex("Question" if "niah" not in name else "\nWhat ")
            assert all(gold in sample.prompt[:question] for gold in sample.answers)
            assert set(sample.answers) <= set(solve(sample.prompt))
            fills.append((counted + task.job.new_tokens) / length)
            is_smallest = name == "cwe" and sample.size == 11  # ten common words and another one
            assert profile == "upstream" or is_smallest or (sample.size - task.start) % task.step == 0
        least = 0.93 if length < 4096 else 0.95 if name[:2] == "qa" else 0.97
        assert profile == "lceg" or sum(fills) / len(fills) >= least, (name, length)


@pytest.mark.parametrize("kind", ["llama2", "llama3"])
def test_words_have_as_many_tokens_as_whole_prompts(tokenizer_of, kind, maker):
    other = Maker(tokenizer_of(kind))
    for name in TASKS:
        samples = other.samples(name, 4)
        assert [sample.tokens for sample in samples] == [other.tokens.count_whole(sample.prompt) for sample in samples]
        if name in ("niah_multikey_1", "vt", "qa_2"):  # the same needles for every length and tokenizer
            answers = [maker.samples(name, 1, length)[0].answers for length in (1536, 2048, 4096)]
            assert answers == [samples[0].answers] * 3, name


def test_a_length_without_room_is_refused(maker):
    for name in TASKS:
        with pytest.raises(ValueError, match=f"too few for a prompt of {name}|{name}: 0 of"):
            maker.task(name, 100)


def test_lceg_layout(maker):
    one, two = (sample.prompt for sample in maker.samples("vt", 2, 1664, "lceg"))
    example, _, rest = one.partition("\n\n\n\n")
    assert two.startswith(example + "\n\n\n\nMemorize") and one.startswith(" Memorize")
    assert "in the text Answer: According" in example and "in the text above. Answer:" in rest
    assert "are assgined the value 12345" in example and "again.\n The grass" in rest
    new = maker.samples("vt", 1, 1664)[0].prompt
    assert "assgined" not in new and "in the text above. Answer:" in new[:1500] and "again.\nThe grass" in new
    assert "list are:1. " in maker.samples("cwe", 1, 2048, "lceg")[0].prompt
    assert "list are: 1. " in maker.samples("cwe", 1)[0].prompt


def test_other_texts_than_rulers_are_refused(monkeypatch):
    monkeypatch.setattr(texts, "DIGEST", "another")
    monkeypatch.setattr(texts, "WORDS_DIGEST", "another")
    for read, package in ((texts.read_texts, "lm-eval"), (texts.read_words, "wonderwords")):
        with pytest.raises(ValueError, match=f"the texts in {package} are not those of RULER"):
            read.__wrapped__()


def test_depths_are_uniform_over_the_grid(maker):
    """Of 40 depths from 0 to 100 %, in sentences; 39 degrees of freedom, five sigma above the mean is 83."""
    assert len(set(DEPTHS)) == 40 and DEPTHS[0] == 0 and DEPTHS[-1] == 100 and DEPTHS[1] == 3
    seen = Counter()
    for sample in maker.samples("niah_single_2", 400, 4096):
        context = sample.prompt.split("\n")[1]
        before, after = (part.split() for part in re.split(r"One of the special magic .+? is: \d+\.", context))
        n, total = len(before), len(before + after)
        starts = [i for i in range(total) if i == 0 or SENTENCE_END.search((before + after)[i - 1])]
        spots = {([*starts, total][int(len(starts) * depth / 100)]): depth for depth in DEPTHS}
        assert n in spots and len(spots) == 40
        seen[spots[n]] += 1
    assert chisquare([seen[depth] for depth in DEPTHS]).statistic < 83


def test_lines_and_keys_of_needle_haystacks(maker):
    places = Counter()
    for sample in maker.samples("niah_multikey_2", 200):
        keys, values = zip(*solvers.NEEDLE.findall(sample.prompt), strict=True)
        assert len(set(keys)) == len(keys) == sample.size + 1 and len(set(values)) == len(values)
        places[10 * values.index(sample.answers[0]) // len(keys)] += 1
    assert chisquare([places[i] for i in range(10)]).statistic < 30  # 9 degrees of freedom
    many = maker.samples("niah_multivalue", 3) + maker.samples("niah_multiquery", 3)
    for sample in many + maker.samples("niah_multikey_1", 3):
        assert len(set(solvers.NEEDLE.findall(sample.prompt))) == 4
    assert {len(sample.answers) for sample in many} == {4}


def test_positions_of_the_answers(maker):
    tokenizer = maker.tokens.tokenizer
    for name in ("niah_single_1", "niah_single_2", "niah_multikey_3", "niah_multivalue"):
        [sample] = maker.samples(name, 1)
        ids = tokenizer.encode(sample.prompt).ids
        positions = maker.task(name).positions(sample.prompt, sample.answers)
        for gold, position in zip(sample.answers, positions, strict=True):
            text = tokenizer.decode(ids[position : position + 60])
            assert text.replace("Ġ", "").replace(" ", "").startswith(gold)


def test_chains(maker):
    examples = set()
    for sample in maker.samples("vt", 20):
        lines = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", sample.prompt)
        assert [len(name) for name, _ in lines] == [3] * 5 + [5] * 5 and lines[0][1] == "12345"
        for chain in (lines[:5], lines[5:]):
            assert [value for _, value in chain[1:]] == [name for name, _ in chain[:4]]
        assert 10000 <= int(lines[5][1]) <= 99998 and len({name for name, _ in lines}) == 10
        examples.add(lines[0][0])
    assert len(examples) == 20  # new names in every sample


def test_counts_of_common_words_and_zeta_frequencies(maker):
    for length, repeats in ((2048, (6, 1)), (8192, (30, 3))):
        [sample] = maker.samples("cwe", 1, length)
        counts = solvers.list_items(sample.prompt)
        assert Counter(counts.values()) == {repeats[0]: 10, repeats[1]: sample.size - 10}
        assert sorted(sample.answers) == sorted(word for word, count in counts.items() if count == repeats[0])
    for sample in maker.samples("fwe", 3, 4096):
        counts = sorted(solvers.coded_words(sample.prompt).values(), reverse=True)
        n = sample.size * 6 / pi**2
        assert counts == [int(n / rank**2) for rank in range(1, isqrt(int(n)) + 1)]
