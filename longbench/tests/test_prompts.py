"""The templates are LongBench's own, and what truncation does to a prompt."""

import hashlib
import importlib.util

import pytest
from transformers import AutoTokenizer

import prompts
from sets import FIRST_LINE, LONGBENCH_E, SETS, TREC_SHOTS, base_set, many_shot, official_rows

SHA256 = {  # of the strings in THUDM/LongBench's config/dataset2prompt.json
    "narrativeqa": "aada7ed24b06abace5b0045ac3bcfe06fc831a6cf434f0ecfd99fb7b3d299e1c",
    "qasper": "0fbdd123fe7f83d6d6a9c583ca28cb29d68e523bf8fec01a0cf2dcd11037775d",
    "multifieldqa_en": "20b4666a2de8a1f701bdb6c4e015fa9f8758d64b361d841f7766df6c9ceba770",
    "hotpotqa": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "2wikimqa": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "musique": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "gov_report": "91c25d585b189ced91c9280efcb4ecb5dcff9548cd4e3bfae66c68025b569e95",
    "qmsum": "dca23b678fe0183bbd9555b57947022aed1b85739da5ad7e1b4708dd0c71c409",
    "multi_news": "2af3f28c40b902e6535d4910510d51653613c49de9b2fc287c5958395061101d",
    "trec": "0eff8bebdba99d91e9d7d91b6ab39455ac74648bea92c9255c9f68c62175b2db",
    "triviaqa": "00a802e6377e72fca39b169cf6c28893bedf23ba7286b03ecd15867c3e27a7c4",
    "samsum": "a68d884234907eefcaa0eacf7b2997f60fa46603988dceae6a44f9b49f045b3f",
    "passage_count": "986550b6c61009c629a4535766d94b7b51e2b2b9e1ed169e4ecb54417466e964",
    "passage_retrieval_en": "39b96b7fa52bdd2aa2bde34ea199158505201b9a0a2c3ce94e80249293f60431",
    "lcc": "6a1f24cf0bb83cd90f1fca8f0dd24801626c2aaea29db834ddc83b950e71190e",
    "repobench-p": "ee9ec182ea5ffeb70a7140d55baea97264a8612d88226d323afa90859c36240c",
}


def test_all_templates_are_byte_equal_to_longbenchs():
    assert list(SHA256) == list(SETS)
    for name, digest in SHA256.items():
        assert hashlib.sha256(prompts.template(name).encode()).hexdigest() == digest, name


def test_a_row_fills_its_template_once():
    row = {"context": "a {input} {context} {} b", "input": "{context}?"}
    text = prompts.template("hotpotqa").format(**row)
    assert text.count("a {input} {context} {} b") == 1 and "Question: {context}?" in text


def test_without_lm_eval_there_is_one_line(monkeypatch):
    prompts.template.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^LongBench's prompts come from the package lm-eval; pip install [^\n]*$"):
        prompts.template("trec")


def test_the_facts_of_the_sets():
    assert len(SETS) == 16 and len(LONGBENCH_E) == 13 and len(TREC_SHOTS) == 15
    assert set(SETS) - set(LONGBENCH_E) == {"narrativeqa", "musique", "qmsum"}
    assert {name: facts.new_tokens for name, facts in SETS.items()} == dict(
        zip(SETS, [128, 128, 64, 32, 32, 32, 512, 512, 512, 64, 32, 128, 32, 32, 64, 64], strict=True)
    )
    assert sum(facts.rows for facts in SETS.values()) == 3750
    names = ("trec_1shots", "multifieldqa_en", "lcc", "standin_lcc")
    assert [official_rows(name) for name in names] == [200, 150, 500, None]
    assert [official_rows(name, e=True) for name in ("qasper", "lcc", "musique")] == [224, 300, None]
    assert len(FIRST_LINE["lceg"]) == 11 and FIRST_LINE["upstream"] < FIRST_LINE["lceg"]
    names = ["standin_trec_7shots", "trec_1000shots", "standin_lcc", "hotpotqa_e", "standin_qasper_e", "trec"]
    assert [base_set(name) for name in names] == ["trec", "trec", "lcc", "hotpotqa", "qasper", "trec"]
    assert [many_shot(name) for name in names] == [True, True, False, False, False, False]
    for name in ("trec_7shots", "qmsum_e", "standin_", "lcc_5shots", "lsht"):
        with pytest.raises(ValueError, match="unknown set"):
            base_set(name)


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


@pytest.mark.parametrize("limit", [100, 101])
def test_the_middle_goes_as_in_longbench(tokenizer, limit):
    text = "".join(chr(97 + i % 26) for i in range(300))
    ids = tokenizer(text).input_ids  # <s> and a token a byte
    half = limit // 2
    expected = text[: half - 1] + text[-half:]  # the first half counts <s>
    cut, truncated = prompts.prompt_ids(tokenizer, text, limit, 32, "lceg")
    assert truncated and tokenizer.decode(cut, skip_special_tokens=True) == expected
    assert len(cut) == 2 * half and cut[0] == ids[0] == 0  # an odd limit loses one token
    for length in (limit - 1, limit):  # of tokens, the first <s>
        assert prompts.prompt_ids(tokenizer, text[: length - 1], limit, 32, "lceg") == (ids[:length], False)
    assert prompts.prompt_ids(tokenizer, text[:limit], limit, 32, "lceg")[1]


@pytest.mark.parametrize("limit", [100, 101])
def test_prompt_and_answer_stay_inside_the_window(tokenizer, limit):
    text = "".join(chr(97 + i % 26) for i in range(300))
    cut, truncated = prompts.prompt_ids(tokenizer, text, limit, 32, "inside")
    assert truncated and len(cut) + 32 == limit - limit % 2
    whole = tokenizer(text).input_ids[: limit - 32]
    assert prompts.prompt_ids(tokenizer, text[: limit - 33], limit, 32, "inside") == (whole, False)
    assert prompts.prompt_ids(tokenizer, text[: limit - 32], limit, 32, "inside")[1]


def test_tokens_that_are_more_when_tokenised_again(tokenizer):
    text = "é" * 300  # two tokens each: half a letter becomes U+FFFD, which is three
    for limit in (101, 102):
        old, _ = prompts.prompt_ids(tokenizer, text, limit, 32, "lceg")
        assert len(old) > limit  # as the paper's code has it
        cut, _ = prompts.prompt_ids(tokenizer, text, limit, 32, "inside")
        assert limit - 8 <= len(cut) + 32 <= limit


def test_a_window_without_room_for_a_prompt(tokenizer):
    for limit in (1, 32, 33):
        with pytest.raises(ValueError, match=f"^a window of {limit} tokens has no room for a prompt beside 32 new"):
            prompts.prompt_ids(tokenizer, "a" * 300, limit, 32, "inside")
    assert prompts.prompt_ids(tokenizer, "a" * 300, 32, 32, "lceg")[1]
