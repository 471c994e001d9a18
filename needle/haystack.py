"""From a folder of texts to prompts of an exact number of tokens. A prompt is a concatenation of lists of token ids:

    BOS, if the tokenizer has one | template up to the context | context with the needle inside | rest of the template

so prompts share their beginnings token by token. Ends of sentences are found in the text and mapped to tokens.
"""

import hashlib
import random
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from run import read_text

import numpy as np

from python_text import read_help_pages

ESSAYS = (49, 645_142)  # number of files and bytes of the essays that the paper used
# a full stop and closing quotes before white space; an ideographic full stop; an empty line
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*(?=\s)|[\u3002\uff01\uff1f]|\n[ \t]*\n")


@dataclass
class Haystack:
    """Token ids, as many as the longest prompt needs.  cuts: indices at which a sentence begins, 0 first.
    mid_character: indices inside a character that is spelt by several tokens; a prompt is never cut there.
    """

    ids_N: list[int]
    cuts: list[int]
    mid_character: set[int]


def read_texts(folder: Path | None):
    """Returns (text by name, sorted; source, path, number and hash of the files) of the .txt files below a folder.

    Without a folder the help pages of pydoc_data. `source` is "official" for the paper's essays (known by their number
    and size), "user" or "standin". Raises ValueError if there is no text.
    """
    if folder is None:
        texts = read_help_pages()
        data = {"source": "standin", "path": "pydoc_data of this Python"}
    else:
        texts, size = {}, 0
        for path in sorted(folder.rglob("*.txt"), key=lambda path: path.parts):
            name = path.relative_to(folder).as_posix()
            texts[name] = read_text(path)
            size += path.stat().st_size
        source = "official" if (len(texts), size) == ESSAYS else "user"
        data = {"source": source, "path": str(folder)}
    if not "".join(texts.values()).strip():
        raise ValueError(f"no text in {folder}: --haystack_dir is a folder of .txt files")
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0{text}\0".encode())
    data["files"] = len(texts)
    data["sha256"] = digest.hexdigest()
    return texts, data


def encode_inside(tokenizer, text):
    """Ids of a text that follows another text, and an array of where each starts and ends in it, characters, [ids, 2].

    There are no special tokens and no space in front, which SentencePiece adds at the beginning of a text: a character
    is encoded in front and cut off again. If it merges with the text, the ids are those at the beginning of a text.
    """
    anchors = ["a", "\n", ""]
    if text[:1].isalnum():
        anchors = ["\n", "a", ""]
    # a literal "<s>" stays text; no warning about a text longer than the model's window
    flags = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    for anchor in anchors:
        encoded = tokenizer(anchor + text, return_offsets_mapping=True, **flags)
        ids = encoded["input_ids"]
        offsets = np.array(encoded["offset_mapping"]).reshape(-1, 2) - len(anchor)
        seam = np.searchsorted(offsets[:, 0], 0)
        if tokenizer.decode(ids[:seam]) == anchor:
            return ids[seam:], offsets[seam:]


def rotate(texts, seed, trial) -> list[str]:
    """The texts in order; after the first trial from a sentence on that is drawn, and what precedes it comes last.

    The draw depends only on seed and trial, so all cells and all checkpoints have the same texts in a trial.
    """
    contents = list(texts.values())
    if trial == 0:
        return contents
    rng = random.Random(f"haystack {seed} {trial}")
    [number] = rng.choices(range(len(contents)), weights=map(len, contents))
    text = contents[number]
    sentence_end = SENTENCE_END.search(text, rng.randrange(len(text)))
    start = sentence_end.end() if sentence_end else len(text)
    others = contents[number + 1 :] + contents[:number]
    return [text[start:], *others, text[:start]]


def build_haystack(tokenizer, texts, length: int) -> Haystack:
    """At least `length` tokens of the texts, with an empty line between two, repeated if they are short."""
    haystack = Haystack([], [], set())
    for text in cycle(text for text in texts if text.strip()):
        n = len(haystack.ids_N)
        if n >= length:
            break
        text = text.strip()[: 16 * length] + "\n\n"  # no tokenizer packs 16 characters of prose into a token
        ids, offsets = encode_inside(tokenizer, text)
        starts, ends = offsets.T
        haystack.cuts += [n + cut for cut in sentence_starts(text, starts, ends)]
        inside = np.flatnonzero(starts[1:] < ends[:-1]) + 1
        haystack.mid_character.update(n + inside)
        haystack.ids_N += ids
    return haystack


def sentence_starts(text, starts, ends):
    """Indices of the tokens with which a sentence begins, 0 first; not where a token reaches into the next sentence."""
    cuts = [0]
    for match in SENTENCE_END.finditer(text):
        sentence_end = match.end()
        cut = np.searchsorted(starts, sentence_end)
        if cuts[-1] < cut < len(starts):
            reaching = text[sentence_end : ends[cut - 1]]
            if not reaching.strip():
                cuts.append(cut)
    return cuts


def build_prompt(tokenizer, haystack, template, fact, length, depth, max_new_tokens) -> list[int]:
    """Token ids of a prompt that takes exactly `length` tokens together with an answer of `max_new_tokens`.

    The needle goes `depth` percent into the context, moved back to where a sentence begins; at 100 it is the last
    thing before the question. If the context would end inside a character, that character is dropped and the
    prompt is shorter by its tokens. Raises ValueError if `length` leaves no room for a context.
    """
    head, tail = template.split("{context}")
    head_ids = tokenizer("")["input_ids"]  # [BOS] or []
    if head:
        head_ids += tokenizer(head, add_special_tokens=False)["input_ids"]
    tail_ids, _ = encode_inside(tokenizer, tail.replace("{question}", fact.question))
    needle_ids, _ = encode_inside(tokenizer, fact.needle)
    fixed = len(head_ids + needle_ids + tail_ids) + max_new_tokens
    budget = length - fixed  # haystack tokens
    if budget < 1:
        raise ValueError(f"length {length} is too short: template, needle and answer alone take {fixed} tokens")
    while budget in haystack.mid_character:
        budget -= 1
    place = budget
    if depth < 100:
        target = int(budget * depth / 100)
        place = haystack.cuts[bisect_right(haystack.cuts, target) - 1]
    context = haystack.ids_N[:budget]
    context[place:place] = needle_ids
    return head_ids + context + tail_ids
