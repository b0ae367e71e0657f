"""Tokenizers as published models compose them, trained by the `tokenizers` package."""
import base64
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SIZE = 2000
CONFIGS = {}


def config(function):
    CONFIGS[function.__name__.replace("_", "-")] = function
    return function


def bert_template(t):
    return processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                         special_tokens=[(x, t.token_to_id(x)) for x in ("[CLS]", "[SEP]")])


def wordpiece(text, **normalizer):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(**normalizer)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(text, trainers.WordPieceTrainer(vocab_size=SIZE, show_progress=False,
                                                          special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    t.post_processor = bert_template(t)
    t.decoder = decoders.WordPiece()
    return t


@config
def bert_uncased(text):
    t = wordpiece(text, lowercase=True)
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return t


@config
def bert_cased(text):
    return wordpiece(text, lowercase=False, strip_accents=False)


@config
def distilbert_multilingual(text):
    t = wordpiece(text, lowercase=False)
    t.post_processor = processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    t.decoder = decoders.WordPiece(cleanup=False)
    t.add_tokens([AddedToken("ADDED", single_word=True), "tok"])
    return t


def byte_bpe(text, specials, **more):
    t = Tokenizer(models.BPE(**more))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return t, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


@config
def gpt2(text):
    t, trainer = byte_bpe(text, ["<|endoftext|>"])
    t.train_from_iterator(text, trainer)
    return t


@config
def gpt2_trimmed(text):
    t, trainer = byte_bpe(text, ["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.train_from_iterator(text, trainer)
    return t


@config
def roberta(text):
    t, trainer = byte_bpe(text, ["<s>", "<pad>", "</s>", "<unk>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.train_from_iterator(text, trainer)
    t.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    return t


@config
def llama_prepend(text):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, limit_alphabet=300,
                                                    special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]))
    t.pre_tokenizer = None
    keep = [(x, t.token_to_id(x)) for x in ("<s>",)]
    t = without_byte_specials(t)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=keep)
    return t


def without_byte_specials(t):
    """The byte tokens belong to the model, not to the added tokens."""
    import json
    root = json.loads(t.to_str())
    root["added_tokens"] = [a for a in root["added_tokens"] if not a["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(root))


@config
def llama_metaspace(text):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, limit_alphabet=300,
                                                    special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]))
    t = without_byte_specials(t)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def unigram(text, normalizer, specials, unk="<unk>", **metaspace):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    t.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=SIZE, show_progress=False, special_tokens=specials, unk_token=unk))
    t.decoder = decoders.Metaspace(**metaspace)
    return t


@config
def t5(text):
    t = unigram(text, normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]), ["<pad>", "</s>", "<unk>"])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    t.add_special_tokens([AddedToken("<extra_id_0>", lstrip=True, rstrip=True), AddedToken("<mask>", lstrip=True, rstrip=True)])
    return t


@config
def xlnet(text):
    n = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
                              normalizers.Replace(Regex(" {2,}"), " ")])
    t = unigram(text, n, ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"])
    t.post_processor = processors.TemplateProcessing(single="$A:0 <sep>:0 <cls>:2", pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
                                                     special_tokens=[(x, t.token_to_id(x)) for x in ("<sep>", "<cls>")])
    return t


@config
def albert(text):
    n = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.Nmt(), normalizers.NFKD(),
                              normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()])
    t = unigram(text, n, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    t.post_processor = bert_template(t)
    return t


@config
def gpt_neox(text):
    t, trainer = byte_bpe(text, ["<|endoftext|>", "<|padding|>"])
    t.normalizer = normalizers.NFC()
    t.train_from_iterator(text, trainer)
    t.add_tokens([AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)])
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    return t


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split_bpe(text, pattern, normalizer, specials, **more):
    t, trainer = byte_bpe(text, specials, **more)
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(text, trainer)
    return t


@config
def llama3(text):
    t = split_bpe(text, LLAMA3, None, ["<|begin_of_text|>", "<|end_of_text|>"], ignore_merges=True)
    start = ("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[start])])
    return t


@config
def qwen(text):
    t = split_bpe(text, QWEN, normalizers.NFC(), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    return t


@config
def gpt4o(text):
    return split_bpe(text, O200K, None, ["<|endoftext|>"])


@config
def bloom(text):
    return split_bpe(text, r" ?[^(\s|[.,!?…。，、।۔،])]+", None, ["<unk>", "<s>", "</s>", "<pad>"])


@config
def deepseek(text):
    t, trainer = byte_bpe(text, ["<s>", "</s>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"), pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"), pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(text, trainer)
    return t


@config
def falcon(text):
    t, trainer = byte_bpe(text, ["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
                                               pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    t.train_from_iterator(text, trainer)
    return t


@config
def clip(text):
    t = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, special_tokens=["<|startoftext|>", "<|endoftext|>"],
                                                    end_of_word_suffix="</w>", initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0), add_prefix_space=False)
    return t


@config
def openai_gpt(text):
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, special_tokens=["<unk>"], end_of_word_suffix="</w>"))
    t.decoder = decoders.BPEDecoder("</w>")
    return t


@config
def whitespace_bpe(text):
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, special_tokens=["<unk>", "<mask>"], continuing_subword_prefix="##"))
    t.add_tokens([AddedToken("added", normalized=True), AddedToken("Tok", normalized=True, single_word=True)])
    return t


@config
def word_level(text):
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(text, trainers.WordLevelTrainer(vocab_size=SIZE, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    t.post_processor = bert_template(t)
    return t


def charsmap():
    """A small precompiled_charsmap in SentencePiece's format is made by hand: one node a byte, children found by XOR."""
    rules = {b"\xef\xac\x81": b"fi", b"\xe3\x8e\x8f": b"kg", b"\t": b" ", b"\n": b" ", b"\xc2\xa0": b" ", b"\xe3\x80\x80": b" ", b"\xc2\xbd": "1⁄2".encode(),
             b"\xe2\x84\xa2": b"TM", b"\xc2\xad": b"", b"\xe2\x80\x8b": b" ", b"e\xcc\x81": "é".encode(), b"\xef\xbc\xa6": b"F"}
    blob, offsets = b"", {}
    for key, value in rules.items():
        offsets[key] = len(blob)
        blob += value + b"\0"
    tree = {}
    for key in rules:
        node = tree
        for byte in key:
            node = node.setdefault(byte, {})
        node[0] = offsets[key]
    units, free = {0: 0}, [1]
    def place(node, at):
        base = free[0] * 256
        free[0] += 1
        has_leaf = 0 in node
        units[at] |= ((base ^ at) << 10) | (0x100 if has_leaf else 0)
        if has_leaf:
            units[base] = node[0] | 0x80000000
        for byte, child in node.items():
            if byte != 0:
                units[base ^ byte] = byte
                place(child, base ^ byte)
    place(tree, 0)
    array = [units.get(i, 0) for i in range(free[0] * 256)]
    return struct.pack("<I", 4 * len(array)) + struct.pack(f"<{len(array)}I", *array) + blob


@config
def xlm_roberta(text):
    n = normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")])
    t = unigram(text, n, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                     special_tokens=[(x, t.token_to_id(x)) for x in ("<s>", "</s>")])
    return t


@config
def scripts_unigram(text):
    t = unigram(text, normalizers.NFKC(), ["<unk>"])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.Punctuation("merged_with_previous"),
                                               pre_tokenizers.CharDelimiterSplit("a"), pre_tokenizers.Metaspace(prepend_scheme="never")])
    t.decoder = decoders.Metaspace(prepend_scheme="never")
    return t
