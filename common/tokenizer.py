"""Opens tokenizers so that every stage turns a text into the same ids: those that the tokenizer's file defines.

BOS, or what else the tokenizer puts before a text, stays. What the file only happens to contain is not used:
truncation, padding, and special tokens after a text (EOS). A text that spells a special token is ordinary text.
"""

from run import errors_of

from tokenizers import Regex, Tokenizer, normalizers, processors

PROBE = "  Two spaces, 12 digits;\n\n\ta tab, then: é, 中, 🙂"


def open_tokenizer(name_or_path: str, trust_remote_code: bool = False):
    """The tokenizer of a checkpoint folder or hub id.

    A tokenizer.json is used as it is: some classes that tokenizer_config.json may name would change it. Without it,
    code in the checkpoint runs if trust_remote_code is True. Raises ValueError if there is no tokenizer that works.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with errors_of(f"no tokenizer in {name_or_path}"):
        if find_file(name_or_path, "tokenizer.json"):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path)
        elif find_file(name_or_path, "tokenizer.model") and "auto_map" not in get_tokenizer_config(name_or_path):
            tokenizer = open_sentencepiece(name_or_path)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code is True)
        tokenizer.split_special_tokens = True
        if tokenizer.is_fast:
            use_text_only(tokenizer.backend_tokenizer)
    return tokenizer


def find_file(name_or_path: str, name: str) -> str | None:
    """The path of a file of a checkpoint folder or hub id, downloaded if necessary; None if there is none."""
    from transformers.utils import cached_file

    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(name_or_path, name, **missing)


def open_sentencepiece(name_or_path: str):
    """The tokenizer of a Llama that has a tokenizer.model only, with its rules for spaces, and BOS by default.

    Transformers 5 takes only the vocabulary from that file. Raises ValueError if the ids are not sentencepiece's.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from transformers import LlamaTokenizer

    processor = SentencePieceProcessor(model_file=find_file(name_or_path, "tokenizer.model"))
    rules = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto()).normalizer_spec
    steps = [normalizers.Prepend(" "), normalizers.Replace(" ", "\u2581")]
    if rules.remove_extra_whitespaces:
        steps.insert(0, normalizers.Replace(Regex("^ +| +$| +(?= )"), ""))
    if rules.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(rules.precompiled_charsmap))
    tokenizer = LlamaTokenizer.from_pretrained(name_or_path)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.add_bos_token = tokenizer.init_kwargs.get("add_bos_token", True)
    if tokenizer(PROBE, add_special_tokens=False)["input_ids"] != processor.encode(PROBE):
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
        names = encoding.tokens[: special.index(0)]
        ids = list(zip(names, encoding.ids, strict=False))
        tokenizer.post_processor = processors.TemplateProcessing(single=[*names, "$A"], special_tokens=ids)
