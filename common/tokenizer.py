"""Opens tokenizers so that every stage turns a text into the same ids: those that the tokenizer's file defines.

BOS, or what else the tokenizer puts before a text, stays. What the file only happens to contain is not used:
truncation, padding, and special tokens after a text (EOS). A text that spells a special token is ordinary text.
"""

import shutil
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, processors

from run import errors_of

FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.model", "*.jinja")
PROBE = "  Two spaces, 12 digits;\n\n\ta tab, then: é, 中, 🙂"


def open_tokenizer(name_or_path: str, trust_remote_code: bool = False):
    """The tokenizer of a checkpoint folder or hub id.

    Its tokenizer.json is used as it is: some classes that tokenizer_config.json may name would change it. Code in the
    checkpoint is run only if trust_remote_code is True. Raises ValueError if there is no tokenizer or it is broken.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with errors_of(f"no tokenizer in {name_or_path}"):
        has_code = "auto_map" in get_tokenizer_config(name_or_path)
        if has_code and trust_remote_code is True:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=True)
        elif find_file(name_or_path, "tokenizer.json"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path)
        elif find_file(name_or_path, "tokenizer.model") and not has_code:
            tokenizer = open_sentencepiece(name_or_path)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        tokenizer.split_special_tokens = True
        if "" in tokenizer.special_tokens_map.values():
            raise ValueError("special tokens are empty; name them in tokenizer_config.json, as <s> and </s>")
        if tokenizer.is_fast:
            use_text_only(tokenizer.backend_tokenizer)
    return tokenizer


def find_file(name_or_path: str, name: str) -> str | None:
    """The path of a file of a checkpoint folder or hub id, downloaded if necessary; None if there is none."""
    from transformers.utils import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(name_or_path, name, **missing)


def open_sentencepiece(name_or_path: str):
    """The tokenizer of a Llama that has a tokenizer.model only.

    Transformers 5 takes the vocabulary from it, but not how spaces are treated, and adds BOS only if
    tokenizer_config.json asks for it. Raises ValueError if the ids are not those of the sentencepiece package.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer.from_pretrained(name_or_path)
    content = Path(find_file(name_or_path, "tokenizer.model")).read_bytes()
    rules = sentencepiece_model_pb2.ModelProto.FromString(content).normalizer_spec
    steps = [normalizers.Prepend(" "), normalizers.Replace(" ", "\u2581")]
    if rules.remove_extra_whitespaces:
        steps = [normalizers.Replace(Regex("^ +| +$| +(?= )"), ""), *steps]
    if rules.precompiled_charsmap:
        steps = [normalizers.Precompiled(rules.precompiled_charsmap), *steps]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.add_bos_token = tokenizer.init_kwargs.get("add_bos_token", True)
    expected = SentencePieceProcessor(model_proto=content).encode(PROBE)
    if tokenizer(PROBE, add_special_tokens=False)["input_ids"] != expected:
        raise ValueError("Transformers cannot read its tokenizer.model; convert it to a tokenizer.json")
    return tokenizer


def use_text_only(tokenizer: Tokenizer) -> None:
    """Leaves out what does not come from the text, except the special tokens before it."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as ordinary text
    encoding = tokenizer.encode("a")
    special = encoding.special_tokens_mask
    if 0 in special and special[-1]:
        n = special.index(0)
        prefix = list(zip(encoding.tokens[:n], encoding.ids[:n], strict=True))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*encoding.tokens[:n], "$A"], special_tokens=prefix
        )


def check_ids(prompts: list[list[int]], vocab_size: int, name_or_path: str) -> None:
    """Raises ValueError if a prompt has an id that is not in the model's vocabulary."""
    largest = max((max(ids, default=0) for ids in prompts), default=0)
    if largest >= vocab_size:
        mismatch = f"a prompt has the token id {largest}, but the model has ids up to {vocab_size - 1}"
        raise ValueError(f"{name_or_path}: {mismatch}; give it the tokenizer that it was trained with")


def copy_tokenizer(name_or_path: str, output: str | Path) -> None:
    """Copies the tokenizer files of a checkpoint folder or hub id, byte by byte."""
    from huggingface_hub import snapshot_download

    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = Path(snapshot_download(name_or_path, allow_patterns=list(FILES)))
    for pattern in FILES:
        for path in filter(Path.is_file, folder.glob(pattern)):
            shutil.copyfile(path, Path(output) / path.name)
