"""Texts to prompts: exact budgets, the needle's place, the facts that are drawn, and the scores."""

import json
import re
from itertools import pairwise
from pydoc_data.topics import topics

import pytest
from scipy.stats import binomtest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from facts import CITIES, STYLES, Facts, keys_of
from haystack import Prompts, beginning, build_haystack, encode_inside, read_texts
from scoring import all_contained, contained, found, lceg_overlap, rouge1_f, wilson

PAGES = [page for _, page in sorted(topics.items())][:30]
NEW = 20
PAPER = STYLES["book"].fixed


def with_bos(tokenizer: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def byte_bpe(bos: bool, merge_newlines: bool = False):
    """Like GPT-2's; or with full stops and line ends in one token, as Llama-3's and Qwen's have them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if merge_newlines:
        split = pre_tokenizers.Split(Regex(r" ?[^\s\w]+[\r\n]*|\s*[\r\n]+| ?\w+|\s+"), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(PAGES, trainer)
    return with_bos(tokenizer, bos)


def sentencepiece_bpe():
    """Like Llama-2's: a space put before a text, spaces written as ▁, bytes where a character is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=90)
    tokenizer.train_from_iterator([word for page in PAGES for word in page.split()], trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = made["added_tokens"][:3]  # the bytes are ordinary tokens
    return with_bos(Tokenizer.from_str(json.dumps(made)), True)


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "byte_bpe": byte_bpe(bos=True),
        "no_bos": byte_bpe(bos=False),
        "merged_newlines": byte_bpe(bos=True, merge_newlines=True),
        "sentencepiece": sentencepiece_bpe(),
    }


KINDS = ("byte_bpe", "no_bos", "merged_newlines", "sentencepiece")


# --- prompts
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_have_the_exact_length_and_decode_to_the_intended_text(tokenizers, kind, style):
    tokenizer = tokenizers[kind]
    texts = dict(enumerate(PAGES[:3]))
    whole = "".join(text.strip() + "\n\n" for text in texts.values())
    haystack = build_haystack(tokenizer, texts, 30_000)
    assert haystack.unit < 30_000 <= len(haystack.ids_N)  # repeated
    template, fact = STYLES[style].template, STYLES[style].fixed or STYLES[style].drawn
    head, tail = template.replace("{question}", fact.question).split("{context}")
    prompts = Prompts(tokenizer, haystack, template, NEW)
    for length in (300, 1000, 4256, 20_538):
        for depth in (0, 11, 50, 89, 100):
            ids = prompts.build(length, depth, [fact.needle], fact.question)
            assert len(ids) + NEW == length
            assert ids.count(tokenizer.bos_token_id) == (0 if kind == "no_bos" else 1)
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert text.startswith(head) and text.endswith(tail) and text.count(fact.needle) == 1
            before, behind = text[len(head) : len(text) - len(tail)].split(fact.needle)
            assert (whole * 30).startswith(before + behind), (length, depth)


@pytest.mark.parametrize("kind", KINDS)
def test_the_needle_is_at_the_asked_depth_within_one_sentence(tokenizers, kind):
    tokenizer = tokenizers[kind]
    haystack = build_haystack(tokenizer, dict(enumerate(PAGES)), 9000)
    prompts = Prompts(tokenizer, haystack, "{context}{question}", NEW)
    needle_ids, _ = encode_inside(tokenizer, PAPER.needle)
    ends = re.compile(r"""[.!?]["')\]]*$|\n\s*$""")
    for length in (1000, 5000, 9000):
        for depth in (11, 22, 50, 78, 89):
            context, tail = prompts.parts(length, depth, [PAPER.needle], PAPER.question)
            context = context[len(beginning(tokenizer)) :]
            at = next(i for i in range(len(context)) if context[i : i + len(needle_ids)] == needle_ids)
            asked = int((len(context) - len(needle_ids)) * depth / 100)
            assert at <= asked
            assert at == 0 or ends.search(tokenizer.decode(haystack.ids_N[:at]))
            between = tokenizer.decode(haystack.ids_N[at:asked])  # less than a sentence lies between
            assert not re.search(r"[.!?]\s+\w+\s", between.strip()), (length, depth, between)
        context, _ = prompts.parts(length, 100, [PAPER.needle], PAPER.question)
        assert context[-len(needle_ids) :] == needle_ids
        context, _ = prompts.parts(length, 0, [PAPER.needle], PAPER.question)
        assert context[len(beginning(tokenizer)) :][: len(needle_ids)] == needle_ids


@pytest.mark.parametrize("kind", KINDS)
def test_no_character_is_cut_in_two(tokenizers, kind):
    tokenizer = tokenizers[kind]
    haystack = build_haystack(tokenizer, {"a": "本を読む。楽しい日だ。😀 Zoë est là. " * 40}, 3000)
    prompts = Prompts(tokenizer, haystack, "{context}{question}", NEW)
    for length in range(400, 440):
        for depth in (30, 60, 100):
            ids = prompts.build(length, depth, ["\n本。\n"], "?")
            assert "�" not in tokenizer.decode(ids) and length - 3 <= len(ids) + NEW <= length


def test_a_literal_special_token_in_a_text_stays_text(tokenizers):
    for tokenizer in tokenizers.values():
        ids, offsets = encode_inside(tokenizer, "one <s> two")
        assert tokenizer.bos_token_id not in ids and tokenizer.decode(ids).strip() == "one <s> two"
        assert offsets[-1][1] == len("one <s> two")


def test_prompts_share_their_beginning_and_their_rope_length(tokenizers):
    """Cells of one length have one total, and two cells agree up to the earlier needle: what reuse builds on."""
    tokenizer = tokenizers["sentencepiece"]
    haystack = build_haystack(tokenizer, dict(enumerate(PAGES)), 5000)
    prompts = Prompts(tokenizer, haystack, STYLES["book"].template, NEW)
    for (short, early), (long, late) in pairwise([(2000, 22), (4000, 33), (4000, 56), (5000, 78)]):
        a = prompts.build(short, early, [PAPER.needle], PAPER.question)
        b = prompts.build(long, late, [PAPER.needle], PAPER.question)
        same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        needle_ids, _ = encode_inside(tokenizer, PAPER.needle)
        at = next(i for i in range(len(a)) if a[i : i + len(needle_ids)] == needle_ids)
        assert at <= same < at + len(needle_ids)


def test_too_short_a_length_says_what_it_takes(tokenizers):
    tokenizer = tokenizers["byte_bpe"]
    prompts = Prompts(tokenizer, build_haystack(tokenizer, {"a": "Some text. " * 50}, 100), "{context}{question}", NEW)
    with pytest.raises(ValueError, match="length 30 is too short: template, needle and answer alone take"):
        prompts.build(30, 50, [PAPER.needle], PAPER.question)


# --- texts
def test_texts_come_in_order_and_say_what_they_are(tmp_path):
    for name, text in (("b.txt", "B."), ("a/z.txt", "\ufeffZ.\r\nY."), ("a/c.txt", "C."), ("note.md", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    texts, data = read_texts(tmp_path)
    assert list(texts.items()) == [("a/c.txt", "C."), ("a/z.txt", "Z.\nY."), ("b.txt", "B.")]
    assert data["source"] == "user" and data["files"] == 3
    (tmp_path / "b.txt").write_text("B!")
    assert read_texts(tmp_path)[1]["sha256"] != data["sha256"]
    assert read_texts(None)[1]["source"] == "standin"
    (tmp_path / "essays").mkdir()
    for i in range(49):
        (tmp_path / "essays" / f"{i}.txt").write_text("x" * (645_142 - 48 if i == 48 else 1))
    assert read_texts(tmp_path / "essays")[1]["source"] == "official"


# --- facts
def test_facts_are_drawn_by_cell_and_trial_alone():
    facts = Facts("book", None, None, None, 1, seed=3)
    assert facts.trial(CITIES, 1000, 50, 0) == facts.trial(CITIES, 9000, 0, 0)
    assert facts.trial(CITIES, 1000, 50, 0).needles == [PAPER.needle]
    drawn = {(n, d, t): facts.trial(CITIES, n, d, t) for n in (1000, 2000) for d in (0, 50, 12.5) for t in range(1, 9)}
    assert len({fact.needles[0] for fact in drawn.values()}) == len(drawn)
    for cell, fact in reversed(drawn.items()):
        assert Facts("book", None, None, None, 1, 3).trial(CITIES, *cell) == fact
        assert contained(fact.answer, fact.needles[0]) and re.fullmatch(r"\d{7}", fact.answer)
        assert fact.question.removeprefix("What is the magic number of ").rstrip("?") in fact.needles[0]
    assert Facts("book", None, None, None, 1, 4).trial(CITIES, 1000, 50, 1) != drawn[1000, 50, 1]


def test_passkeys_have_names_of_one_token(tokenizers):
    words = keys_of("passkey", tokenizers["byte_bpe"])
    fact = Facts("passkey", None, None, None, 1, 0).trial(words, 64, 0, 0)
    assert re.fullmatch(r"\n# key [a-z]{3,} is \d{4}\n", fact.needles[0])
    assert fact.needles[0].startswith(fact.question) and fact.needles[0].strip().endswith(f"is {fact.answer}")
    for word in words[:20]:
        assert len(encode_inside(tokenizers["byte_bpe"], f" {word}")[0]) == 1
    assert words == sorted(set(words)) and "the" in words and "the" in keys_of("passkey", tokenizers["sentencepiece"])


def test_several_needles_stand_in_order_and_are_all_asked_for(tokenizers):
    tokenizer = tokenizers["byte_bpe"]
    fact = Facts("book", None, None, None, 3, 0).trial(CITIES, 4000, 40, 0)
    assert len(set(fact.needles)) == 3 and len(fact.answer.split()) == 3
    haystack = build_haystack(tokenizer, dict(enumerate(PAGES)), 4000)
    ids = Prompts(tokenizer, haystack, STYLES["book"].template, NEW).build(4000, 40, fact.needles, fact.question)
    assert len(ids) + NEW == 4000
    text = tokenizer.decode(ids)
    places = [text.index(needle) / len(text) for needle in fact.needles]
    assert places == pytest.approx([0.4, 0.6, 0.8], abs=0.05)
    names = [re.search("of (.*) is", needle)[1] for needle in fact.needles]
    assert fact.question == "What is the magic number of {}, {} and {}?".format(*names)
    one, two, three = fact.answer.split()
    assert found(fact.answer, f"{three}, and {one}") == pytest.approx(2 / 3)
    assert all_contained(fact.answer, f"{three} {one} {two}", several=True)
    assert not all_contained(fact.answer, f"{three} {one}", several=True)


def test_facts_of_the_user():
    own = Facts("book", "\nThe cat is grey.\n", "What colour is the cat?", "grey", 1, 0)
    assert own.trial(CITIES, 10, 0, 0).answer == "grey" and re.fullmatch(r"\d+", own.trial(CITIES, 10, 0, 1).answer)
    drawn = Facts("book", "\nIn {key} it is {number} degrees.\n", "How warm is {key}?", "{number}", 2, 0)
    fact = drawn.trial(CITIES, 10, 0, 0)
    assert re.fullmatch(r"\nIn \w+ it is \d+ degrees.\n", fact.needles[0]) and " and " in fact.question
    with pytest.raises(ValueError, match="--answer 'blue' is not contained in --needle"):
        Facts("book", "\nThe cat is grey.\n", "What colour?", "blue", 1, 0)
    for style, needle in (("passkey", None), ("book", PAPER.needle)):
        with pytest.raises(ValueError, match="--needles above 1"):
            Facts(style, needle, None, None, 2, 0)


# --- scores
@pytest.mark.parametrize(
    ("response", "share", "exact", "overlap"),
    [
        (" Eat a sandwich and sit in Dolores Park on a sunny day.", 1, True, 11 / 12),
        ("EAT a sandwich, and SIT in Dolores Park on a 'sunny' day\n", 1, True, 8 / 12),  # sandwich, 'sunny' day differ
        ("in Dolores Park you sit", 4 / 11, False, 4 / 12),
        ("a and on in", 4 / 11, False, 4 / 12),
        ("", 0, False, 0),
    ],
)
def test_scores_of_the_papers_answer(response, share, exact, overlap):
    assert found(PAPER.answer, response) == pytest.approx(share)
    assert all_contained(PAPER.answer, response, False) == exact
    assert lceg_overlap(PAPER.answer, response) == pytest.approx(overlap)


def test_a_number_is_found_whole():
    assert found("4821", " 4821\n# key") == 1 and found("4821", "48215") == 0 and found("4821", "4,821.") == 1
    assert not contained("4821", "14821 4 821") and not contained("", "x")


def test_rouge1():
    assert rouge1_f("the cat sat on the mat", "the cat sat on the mat") == 1
    # recall 3/6, precision 3/4 (the second "the" counts, the third has no partner): F = 2 * 3 / (6 + 4)
    assert rouge1_f("the cat sat on the mat", "the the the cat") == pytest.approx(0.6)
    assert rouge1_f("a b", "C, d!") == 0 and rouge1_f("A-b.", "a B") == 1 and rouge1_f("a", "") == 0


def test_wilson_is_that_of_scipy():
    for k, n in [(0, 1), (1, 1), (0, 16), (3, 16), (16, 16), (307, 400)]:
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx([expected.low, expected.high], abs=1e-12)
