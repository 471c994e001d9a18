"""Texts to prompts: exact budgets, the needle's place, the facts that are drawn, and the scores."""

import json
import re
from itertools import product
from pydoc_data.topics import topics

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from facts import CITIES, PAPER, STYLES, Fact, Facts
from haystack import build_haystack, build_prompt, encode_inside, read_texts, rotate
from scoring import contained, lceg_overlap, rouge1_f, word_share

PAGES = [page for _, page in sorted(topics.items())][:30]
NEW = 20
SENTENCE_END = re.compile(r"""[.!?]["')\]]*$|\n\s*$""")


def wrap(tokenizer: Tokenizer, single: str) -> PreTrainedTokenizerFast:
    special = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def byte_bpe(merge_newlines: bool):
    """Like GPT-2's, without BOS; or with full stops and line ends in one token, like those of Llama-3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merge_newlines)
    if merge_newlines:
        split = pre_tokenizers.Split(Regex(r" ?[^\s\w]+[\r\n]*|\s*[\r\n]+| ?\w+|\s+"), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    special = {"special_tokens": ["<s>", "</s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(PAGES, trainers.BpeTrainer(vocab_size=900, show_progress=False, **special))
    return wrap(tokenizer, "<s> $A" if merge_newlines else "$A")


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
    return wrap(Tokenizer.from_str(json.dumps(made)), "<s> $A")


TOKENIZERS = {"no_bos": byte_bpe(False), "merged_newlines": byte_bpe(True), "sentencepiece": sentencepiece_bpe()}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


# --- prompts
@pytest.mark.parametrize("style", STYLES)
@each_tokenizer
def test_prompts_have_the_exact_length_and_the_needle_is_at_its_depth_within_one_sentence(tokenizer, style):
    whole = "".join(text.strip() + "\n\n" for text in PAGES[:3])
    haystack = build_haystack(tokenizer, PAGES[:3], 30_000)
    assert len(encode_inside(tokenizer, whole)[0]) < 30_000 <= len(haystack.ids_N)  # repeated
    template, fact = STYLES[style]["template"], STYLES[style]["fixed"] or STYLES[style]["drawn"]
    head, tail = template.replace("{question}", fact.question).split("{context}")
    needle_ids, _ = encode_inside(tokenizer, fact.needle)
    for length, depth in product((300, 1000, 4256, 20_538), (0, 11, 22, 50, 78, 89, 100)):
        ids = build_prompt(tokenizer, haystack, template, fact, length, depth, NEW)
        assert len(ids) + NEW == length
        assert ids.count(tokenizer.bos_token_id) == tokenizer("a").input_ids.count(tokenizer.bos_token_id)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith(head) and text.endswith(tail) and text.count(fact.needle) == 1
        assert (whole * 30).startswith(text[len(head) : len(text) - len(tail)].replace(fact.needle, ""))

        begin = next(i for i in range(length) if ids[i : i + 9] in (haystack.ids_N[:9], needle_ids[:9]))
        end = len(ids) - len(encode_inside(tokenizer, tail)[0])
        place = next(i for i in range(begin, end) if ids[i : i + len(needle_ids)] == needle_ids) - begin
        target = int((end - begin - len(needle_ids)) * depth / 100)
        assert place <= target if 0 < depth < 100 else place == target
        assert place in (0, target) or SENTENCE_END.search(tokenizer.decode(haystack.ids_N[:place]))
        between = tokenizer.decode(haystack.ids_N[place:target])  # less than a sentence
        assert not re.search(r"[.!?]\s+\w+\s", between.strip()), (length, depth, between)


@each_tokenizer
def test_no_character_is_cut_in_two_and_no_token_is_special(tokenizer):
    haystack = build_haystack(tokenizer, ["本を読む。楽しい日だ。😀 Zoë est là. " * 40], 3000)
    for length, depth in product(range(400, 440), (30, 60, 100)):
        ids = build_prompt(tokenizer, haystack, "{context}{question}", Fact("\n本。\n", "?", ""), length, depth, NEW)
        assert "�" not in tokenizer.decode(ids) and length - 3 <= len(ids) + NEW <= length
    ids, offsets = encode_inside(tokenizer, "one <s> two")  # a literal special token stays text
    assert tokenizer.bos_token_id not in ids and tokenizer.decode(ids).strip() == "one <s> two"
    assert offsets[-1][1] == len("one <s> two")


def test_texts_are_sorted_and_their_source_is_known(tmp_path):
    (tmp_path / "a").mkdir()
    for name, text in (("b.txt", "B."), ("a/z.txt", "\ufeffZ.\r\nY."), ("a/c.txt", "C."), ("note.md", "no")):
        (tmp_path / name).write_bytes(text.encode())
    texts, data = read_texts(tmp_path)
    assert list(texts.items()) == [("a/c.txt", "C."), ("a/z.txt", "Z.\nY."), ("b.txt", "B.")]
    assert data["source"] == "user" and data["files"] == 3 and read_texts(None)[1]["source"] == "standin"
    for i in range(46):
        (tmp_path / f"{i}.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x" * (645_142 - 46 - sum(map(len, (b"\xef\xbb\xbfZ.\r\nY.", b"C.")))))
    assert read_texts(tmp_path)[1]["source"] == "official"


def test_each_trial_has_a_text_of_its_own_that_begins_with_a_sentence():
    texts = dict(enumerate(PAGES))
    assert rotate(texts, 3, 0) == PAGES
    for trial in range(1, 20):
        first, *others, last = rotate(texts, 3, trial)
        number = next(i for i, page in enumerate(PAGES) if page == last + first)
        assert others == PAGES[number + 1 :] + PAGES[:number]
        assert SENTENCE_END.search(last)
    short = rotate({"a": "One. Two. Three.", "b": "Four."}, 3, 1)
    assert short == [" Two. Three.", "Four.", "One."]  # must never change
    assert rotate(texts, 3, 1) != rotate(texts, 3, 2) and rotate(texts, 3, 1) != rotate(texts, 4, 1)
    assert rotate({"a": "No sentence"}, 3, 1) == ["", "No sentence"]


# --- facts
def test_facts_depend_on_cell_trial_and_seed_only():
    facts = Facts("book", None, 3, None)
    assert facts.draw(1000, 50, 0) == facts.draw(9000, 0, 0) == PAPER
    drawn = {cell: facts.draw(*cell) for cell in product((1000, 2000), (0, 50, 12.5), range(1, 9))}
    assert len({fact.needle for fact in drawn.values()}) == len(drawn)
    for cell, fact in reversed(drawn.items()):
        assert facts.draw(*cell) == fact
        name = fact.question.removeprefix("What is the magic number of ").removesuffix("?")
        assert name in CITIES and fact.needle == f"\nThe magic number of {name} is {fact.answer}.\n"
    first = drawn[1000, 50, 1]
    assert first.answer == "7461461"  # must never change
    assert Facts("book", None, 4, None).draw(1000, 50, 1) != first
    own = Fact("\nThe cat is grey.\n", "What colour is the cat?", "grey")
    facts = Facts("book", own, 3, None)
    assert facts.draw(10, 0, 0) == own and facts.draw(1000, 50, 1) == first
    own = Facts("book", Fact("{key}: {number} {}", "{key}?", "{number}"), 3, None).draw(1000, 50, 0)
    assert own.needle == f"{own.question[:-1]}: {own.answer} {{}}" and re.fullmatch(r"\d{7}", own.answer)


@each_tokenizer
def test_passkeys_have_names_of_one_token(tokenizer):
    facts = Facts("passkey", None, 0, tokenizer)
    assert "the" in facts.names and facts.names == sorted(set(facts.names))
    for name in facts.names[:20]:
        assert len(encode_inside(tokenizer, f" {name}")[0]) == 1
    fact = facts.draw(64, 0, 0)
    assert re.fullmatch(r"\nThe magic number of [a-z]{3,} is \d{4}\.\n", fact.needle)
    assert f"{fact.question} {fact.answer}".endswith(fact.needle.strip("\n."))  # the question begins the answer


# --- scores
def test_scores():
    response = "EAT a sandwich, and SIT in Dolores Park on a 'sunny' day\n"  # sandwich, 'sunny' day differ
    assert word_share(PAPER.answer, response) == 1 and contained(PAPER.answer, response)
    assert lceg_overlap(PAPER.answer, response) == pytest.approx(8 / 12)
    response = "in Dolores Park you sit"
    assert word_share(PAPER.answer, response) == pytest.approx(4 / 11) and not contained(PAPER.answer, response)
    assert lceg_overlap(PAPER.answer, response) == pytest.approx(4 / 12)
    assert word_share("4821", " 4821\n# key") == word_share("4821", "4,821.") == 1  # a number is found whole
    assert word_share("4821", "48215") == 0 and not contained("4821", "14821 4 821")
    for glued in ("4821.The", "4821</book>", "is:4821", "**4821**the", "`4821`\u2014as", "(4821)a", "key_4821_"):
        assert word_share("4821", glued) == 1 and contained("4821", glued)
    for other in ("48215.The", "14821:a", "4821.5", "4,821,000", "x4821y"):
        assert word_share("4821", other) == 0 and not contained("4821", other)
    assert word_share("吃三明治", "他在公园吃了三明治。") == 1 and contained("公园", "他在公园吃了三明治。")
    assert contained("4821", "番号は4821です。") and not contained("4821", "番号は48215です。")
    assert word_share("東京タワー", "東京駅") == pytest.approx(2 / 5)
    # recall 3/6, precision 3/4 (the second "the" counts, the third has no partner): F = 2 * 3 / (6 + 4)
    assert rouge1_f("the cat sat on the mat", "the the the cat") == pytest.approx(0.6)
    assert rouge1_f("a b", "C, d!") == rouge1_f("a", "") == 0 and rouge1_f("A-b.", "a B") == 1
