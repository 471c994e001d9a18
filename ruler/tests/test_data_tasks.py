"""What the prompts of the thirteen tasks are: sized to their budget, answerable, distributed as RULER says."""

import json
import re
from collections import Counter
from math import isqrt, pi

import pytest
import transformers

import maker
import solvers
import templates
import tokens
import words
from niah import DEPTHS, SENTENCE_END
from sampling import Job
from tasks import read_tasks

SPECS = read_tasks("synthetic")
TASKS = list(SPECS)
LENGTHS = (1536, 2048, 4096)


def job(name, length=2048, profile="upstream"):
    task = SPECS[name]
    return Job(name, task["task"], task["args"], length, task["tokens_to_generate"], 500, 42, profile)


def make(folder):
    outside = maker.Outside({"essays": None, "squad": None, "hotpotqa": None})
    return maker.Maker(tokens.load(str(folder), False), outside)


@pytest.fixture(scope="module")
def bytes_maker(tokenizer_folder):
    return make(tokenizer_folder)


def samples(setup, wanted, n):
    return [setup.sample(wanted, index) for index in range(n)]


def solved(name, sample) -> float:
    return solvers.score(sample.answers, " ".join(getattr(solvers, SPECS[name]["task"])(sample.text)))


@pytest.mark.parametrize("name", TASKS)
def test_every_prompt_keeps_its_budget_and_can_be_answered(bytes_maker, name):
    for length, profile in ((1536, "upstream"), (2048, "upstream"), (4096, "upstream"), (4096, "lceg")):
        wanted, fills = job(name, length, profile), []
        for sample in samples(bytes_maker, wanted, 6):
            counted = bytes_maker.tokens.count_whole(sample.text)  # BOS included
            assert counted == sample.tokens <= length - wanted.new_tokens
            assert sample.text.endswith(sample.prefix) and len(set(sample.answers)) == len(sample.answers)
            question = sample.text.rindex("Question" if "niah" not in name else "\nWhat ")
            assert all(gold in sample.text[:question] for gold in sample.answers)
            assert solved(name, sample) == 1 and solvers.score(sample.answers, "") == 0
            fills.append((counted + wanted.new_tokens) / length)
            start, step = length // 6 if name == "fwe" else 0, bytes_maker.task(wanted).step
            assert profile == "upstream" or (sample.units - start) % step == 0
        least = 0.93 if length < 4096 else 0.95 if name[:2] == "qa" else 0.97
        assert profile == "lceg" or sum(fills) / len(fills) >= least, (name, length)


@pytest.mark.parametrize("kind", ["llama2", "llama3"])
def test_words_take_as_many_tokens_as_whole_prompts(tokenizer_of, kind):
    setup = make(tokenizer_of(kind))
    for name in TASKS:
        for sample in samples(setup, job(name), 4):
            assert sample.tokens == setup.tokens.count_whole(sample.text), name


def test_a_tokenizer_whose_tokens_reach_over_spaces_is_noticed_and_the_budget_kept(tokenizer_of):
    setup = make(tokenizer_of("spaces"))
    wanted = job("qa_1", 4096)
    assert setup.rows(wanted, 0, 8) is None
    for sample in samples(setup, wanted._replace(whole=True), 4):
        assert 3800 < sample.tokens == setup.tokens.count_whole(sample.text) <= 4096 - 32


def test_lceg_layout(bytes_maker):
    one, two = (sample.text for sample in samples(bytes_maker, job("vt", 1664, "lceg"), 2))
    example, _, rest = one.partition("\n\n\n\n")
    assert two.startswith(example + "\n\n\n\nMemorize") and one.startswith(" Memorize")
    assert "in the text Answer: According" in example and "in the text above. Answer:" in rest
    assert "are assgined the value 12345" in example and "again.\n The grass" in rest
    new = samples(bytes_maker, job("vt", 1664), 1)[0].text
    assert "assgined" not in new and "in the text above. Answer:" in new[:1500] and "again.\nThe grass" in new
    common = samples(bytes_maker, job("cwe", 2048, "lceg"), 1)[0].text
    assert "list are:1. " in common and "list are: 1. " in samples(bytes_maker, job("cwe"), 1)[0].text


def test_other_templates_than_rulers_are_refused(monkeypatch):
    monkeypatch.setitem(templates.DIGESTS, "cwe", "another")
    with pytest.raises(ValueError, match="lm-eval's cwe template is not RULER's"):
        templates.read_texts.__wrapped__()


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_depths_are_uniform_over_the_grid(bytes_maker):
    """Of 40 depths from 0 to 100 %, in sentences; 39 degrees of freedom, five sigma above the mean is 83."""
    assert len(set(DEPTHS)) == 40 and DEPTHS[0] == 0 and DEPTHS[-1] == 100 and DEPTHS[1] == 3
    seen = Counter()
    for sample in samples(bytes_maker, job("niah_single_2"), 400):
        context = sample.text.split("\n")[1]
        before, after = (part.split() for part in re.split(r"One of the special magic .+? is: \d+\.", context))
        n, total = len(before), len(before + after)
        starts = [i for i in range(total) if i == 0 or SENTENCE_END.search((before + after)[i - 1])]
        spots = {([*starts, total][int(len(starts) * depth / 100)]): depth for depth in DEPTHS}
        assert n in spots and len(spots) == 40
        seen[spots[n]] += 1
    assert chi_square([seen[depth] for depth in DEPTHS], 400 / 40) < 83


def test_lines_and_keys_of_needle_haystacks(bytes_maker):
    places = Counter()
    for sample in samples(bytes_maker, job("niah_multikey_2"), 200):
        keys, values = zip(*solvers.NEEDLE.findall(sample.text), strict=True)
        assert len(set(keys)) == len(keys) == sample.units + 1 and len(set(values)) == len(values)
        places[10 * values.index(sample.answers[0]) // len(keys)] += 1
    assert chi_square([places[i] for i in range(10)], 20) < 30  # 9 degrees of freedom
    many = samples(bytes_maker, job("niah_multivalue"), 3) + samples(bytes_maker, job("niah_multiquery"), 3)
    for sample in many + samples(bytes_maker, job("niah_multikey_1"), 3):
        assert len(set(solvers.NEEDLE.findall(sample.text))) == 4
    assert {len(sample.answers) for sample in many} == {4}


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multikey_3", "niah_multivalue"])
def test_positions_of_the_answers(bytes_maker, name):
    for sample in samples(bytes_maker, job(name), 4):
        ids = bytes_maker.tokens.tokenizer.encode(sample.text).ids
        for gold, position in zip(sample.answers, sample.positions, strict=True):
            text = bytes_maker.tokens.tokenizer.decode(ids[position : position + 60]).replace("Ġ", "").replace(" ", "")
            assert text.startswith(gold)


def test_chains(bytes_maker):
    examples = set()
    for sample in samples(bytes_maker, job("vt"), 20):
        lines = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", sample.text)
        assert [len(name) for name, _ in lines] == [3] * 5 + [5] * 5 and lines[0][1] == "12345"
        for chain in (lines[:5], lines[5:]):
            assert [value for _, value in chain[1:]] == [name for name, _ in chain[:4]]
        assert 10000 <= int(lines[5][1]) <= 99998 and len({name for name, _ in lines}) == 10
        examples.add(lines[0][0])
    assert len(examples) == 20  # new names in every sample


@pytest.mark.parametrize("length, repeats", [(2048, (6, 1)), (8192, (30, 3))])
def test_common_words_stand_as_often_as_they_should(bytes_maker, length, repeats):
    sample = samples(bytes_maker, job("cwe", length), 1)[0]
    listed = sample.text[sample.text.rindex("Below") : sample.text.rindex("\nQuestion")]
    counts = Counter(re.findall(r"\d+\. (.+?)(?= \d+\. |$)", listed.split("\n", 1)[1]))
    assert Counter(counts.values()) == {repeats[0]: 10, repeats[1]: sample.units - 10}
    assert sorted(sample.answers) == sorted(word for word, count in counts.items() if count == repeats[0])


def test_frequencies_are_zeta(bytes_maker):
    for sample in samples(bytes_maker, job("fwe", 4096), 3):
        counts = sorted(Counter(solvers.coded(sample.text)).values(), reverse=True)
        n = sample.units
        assert counts == [int(n * 6 / pi**2 / rank**2) for rank in range(1, isqrt(int(n * 6 / pi**2)) + 1)]


def test_no_pair_of_words_can_be_read_in_two_ways():
    """So that uniform draws of both words are uniform over the distinct pairs, whose number the protocol gives."""
    nouns, adjectives, _ = words.read_words()
    assert len(nouns) * len(adjectives) == 6_171_620
    rests = {long[len(short) + 1 :] for short in adjectives for long in adjectives if long.startswith(short + "-")}
    known = set(nouns)
    assert rests and not any(f"{rest}-{noun}" in known for rest in rests for noun in nouns)


def test_same_needles_for_every_length_and_tokenizer(bytes_maker, tokenizer_of):
    other = make(tokenizer_of("llama3"))
    for name in ("niah_multikey_1", "vt", "qa_2"):
        made = [samples(bytes_maker, job(name, length), 1)[0].answers for length in LENGTHS]
        assert made == [samples(other, job(name), 1)[0].answers] * 3, name


def test_a_tokenizer_that_transformers_changes(tokenizer_of, tmp_path):
    """Llama's class has a pre-tokenizer of its own."""
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_of("llama2") / "tokenizer.json").read_bytes())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    setup, theirs = make(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for name in ("niah_single_1", "vt", "cwe", "qa_1"):
        sample = setup.sample(job(name), 0)
        ids = theirs(sample.text)["input_ids"]
        assert len(ids) == sample.tokens and ids.count(theirs.bos_token_id) == 1
