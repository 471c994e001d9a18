"""From a folder of texts to prompts of exactly so many tokens.

The texts are tokenised once, whatever the grid; a prompt is put together from lists of token ids:

    BOS, if the tokenizer puts one | template up to the context | context with the needles inside | rest of the template

so prompts share their beginnings token by token, and none is encoded again. A sentence ends where the text says so,
found through the tokenizer's offsets: it does not matter how a tokenizer writes a full stop.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path

ESSAYS = (49, 645_142)  # files and bytes of the essays that the paper used
# a full stop with what closes a quotation, before white space; an ideographic full stop; an empty line
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*(?=\s)|[\u3002\uff01\uff1f]|\n[ \t]*\n")
CONTEXT = "{context}"


@dataclass
class Haystack:
    """ids_N: token ids, as many as the longest prompt needs.  cuts: indices at which a sentence begins, 0 first.
    mid_character: indices at which a character is only half spelt out (byte tokens); no prompt is cut there.
    unit: the texts repeat after so many tokens."""

    ids_N: list[int]
    cuts: list[int]
    mid_character: set[int]
    unit: int


def read_texts(folder: Path | None) -> tuple[dict[str, str], dict]:
    """(texts by name, in sorted order; what they are). All .txt files below `folder`; without a folder the help pages
    of pydoc_data. `source` is "official" for the paper's essays (known by number and size), "user" or "standin".

    Raises ValueError, one line, if there is no text in the folder, or a file that is not UTF-8.
    """
    if folder is None:
        from pydoc_data.topics import topics

        texts, source = dict(sorted(topics.items())), "standin"
    else:
        paths = sorted(folder.rglob("*.txt"), key=lambda path: path.parts)
        if not paths:
            raise ValueError(f"no .txt files in {folder}; --haystack_dir takes a folder of plain texts")
        texts = {}
        for path in paths:
            try:
                text = path.read_bytes().decode("utf-8-sig")
            except UnicodeDecodeError:
                raise ValueError(f"{path} is not UTF-8 text; convert it, or take it out of the haystack") from None
            texts[path.relative_to(folder).as_posix()] = text.replace("\r\n", "\n")
        if not any(text.strip() for text in texts.values()):
            raise ValueError(f"the .txt files in {folder} are empty")
        source = "official" if (len(paths), sum(path.stat().st_size for path in paths)) == ESSAYS else "user"
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0{text}\0".encode())
    path = str(folder) if folder else "pydoc_data of this Python"
    return texts, {"source": source, "path": path, "files": len(texts), "sha256": digest.hexdigest()}


def encode_inside(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of `text` as it stands behind other text, and each one's (start, end) in it, characters.

    No special tokens, and no space put before it, as SentencePiece does at the beginning of a text: a character is
    encoded in front and cut off again. Where no seam shows, the ids are those at the beginning of a text.
    """
    for anchor in ("\n", "a", "") if text[:1].isalnum() else ("a", "\n", ""):
        made = tokenizer(
            anchor + text,
            add_special_tokens=False,
            split_special_tokens=True,  # a literal "<s>" stays text
            return_offsets_mapping=True,
            verbose=False,  # it would warn of a text longer than the model's window
        )
        ids, offsets = made["input_ids"], made["offset_mapping"]
        seam = bisect_left(offsets, (len(anchor), 0))
        if not anchor or (seam and tokenizer.decode(ids[:seam]) == anchor):
            shift = len(anchor)
            return ids[seam:], [(start - shift, end - shift) for start, end in offsets[seam:]]


def beginning(tokenizer) -> list[int]:
    """The special tokens that the tokenizer puts before a text: [BOS] or []."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at]


def build_haystack(tokenizer, texts: dict[str, str], length: int) -> Haystack:
    """At least `length` tokens of the texts, one after the other with an empty line between, repeated when short."""
    ids, cuts, mid = [], [], set()
    for text in texts.values():
        if len(ids) < length and text.strip():
            text = text.strip()[: 16 * length] + "\n\n"  # no tokenizer packs prose that densely
            new, offsets = encode_inside(tokenizer, text)
            cuts += [len(ids) + cut for cut in sentence_starts(text, offsets)]
            mid.update(len(ids) + i for i in range(1, len(new)) if offsets[i][0] < offsets[i - 1][1])
            ids += new
    unit = len(ids)
    copies = range(-(-length // unit))
    cuts = [copy * unit + cut for copy in copies for cut in cuts]
    return Haystack(ids * len(copies), cuts, {copy * unit + i for copy in copies for i in mid}, unit)


def sentence_starts(text: str, offsets: list[tuple[int, int]]) -> list[int]:
    """Indices of the tokens with which a sentence begins, 0 first: the first token that starts behind a sentence's
    end, unless the token before it reaches into the next sentence."""
    starts, found = [start for start, _ in offsets], [0]
    for match in SENTENCE_END.finditer(text):
        cut = bisect_left(starts, match.end())
        if found[-1] < cut < len(starts) and not text[match.end() : offsets[cut - 1][1]].strip():
            found.append(cut)
    return found


class Prompts:
    """Puts prompts together for one tokenizer, haystack and template.

    template: text with {context} in it; what follows may have {question}.  new: tokens left for the answer.
    """

    def __init__(self, tokenizer, haystack: Haystack, template: str, new: int):
        self.tokenizer, self.haystack, self.new = tokenizer, haystack, new
        head, self.tail = template.split(CONTEXT)
        begin = beginning(tokenizer)
        self.head_ids = begin + (tokenizer(head, add_special_tokens=False)["input_ids"] if head else [])

    def parts(self, length: int, depth: float, needles: list[str], question: str) -> tuple[list[int], list[int]]:
        """(ids before the context and of it, ids behind it): together with the answer exactly `length` tokens.

        The first needle stands `depth` percent into the context, moved back to where a sentence begins; further ones
        at even steps from there to the end. At 100 the needle is the last thing before the question. Raises
        ValueError if there is no room for any context; where the last character of the context is half spelt out,
        it is left out and the prompt is shorter by that.
        """
        tail_ids, _ = encode_inside(self.tokenizer, self.tail.replace("{question}", question))
        needle_ids = [encode_inside(self.tokenizer, needle)[0] for needle in needles]
        fixed = len(self.head_ids) + len(tail_ids) + sum(map(len, needle_ids)) + self.new
        budget = length - fixed
        if budget < 1:
            raise ValueError(f"length {length} is too short: template, needle and answer alone take {fixed} tokens")
        while budget in self.haystack.mid_character:
            budget -= 1
        context, done = [], 0
        for i, ids in enumerate(needle_ids):
            at = self.place(budget, depth + (100 - depth) * i / len(needles))
            context += self.haystack.ids_N[done:at] + ids
            done = at
        return self.head_ids + context + self.haystack.ids_N[done:budget], tail_ids

    def place(self, budget: int, depth: float) -> int:
        """The index in a context of `budget` haystack tokens at which a needle goes in."""
        if depth >= 100:
            return budget
        cuts = self.haystack.cuts
        return cuts[bisect_right(cuts, int(budget * depth / 100)) - 1]

    def build(self, length: int, depth: float, needles: list[str], question: str) -> list[int]:
        """Token ids of a whole prompt, see `parts`."""
        context_ids, tail_ids = self.parts(length, depth, needles, question)
        return context_ids + tail_ids
