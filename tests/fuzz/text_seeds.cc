// The seeds of the targets that read text files and tokenizer.json.
#include "seeds.h"
#include "text/tokenizer.h"

namespace {

std::string composed(const std::string& normalizer, const std::string& pre_tokenizer, const std::string& post_processor, const std::string& decoder,
                     const std::string& model) {
  return R"({"version": "1.0", "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}, "padding": null,
    "added_tokens": [{"id": 1, "content": "[CLS]", "single_word": false, "lstrip": true, "rstrip": false, "normalized": false, "special": true},
                     {"id": 9, "content": "Boat", "single_word": true, "lstrip": false, "rstrip": true, "normalized": true, "special": false}],
    "normalizer": )" + normalizer + ", \"pre_tokenizer\": " + pre_tokenizer + ", \"post_processor\": " + post_processor + ", \"decoder\": " + decoder +
         ", \"model\": " + model + "}";
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  int n = 0;
  const auto tokenizer = rhetor::train_byte_bpe([&](std::string& d) { d = "the boats of the harbour"; return n++ < 3; }, {.vocab_size = 280});
  return {
      "",
      "a",
      tokenizer->to_json(),
      composed(R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true})",
               R"({"type": "BertPreTokenizer"})",
               R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                   "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                   "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}}})",
               R"({"type": "WordPiece", "prefix": "##", "cleanup": true})",
               R"({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                   "vocab": {"[UNK]": 0, "[CLS]": 1, "the": 2, "boat": 3, "##s": 4, "e": 5}})"),
      composed(R"({"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                   {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": true, "strip_right": true},
                   {"type": "Prepend", "prepend": "\u2581"}, {"type": "Precompiled", "precompiled_charsmap": ""}]})",
               R"({"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}, {"type": "Punctuation", "behavior": "MergedWithPrevious"},
                   {"type": "Digits", "individual_digits": true}, {"type": "CharDelimiterSplit", "delimiter": "x"},
                   {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": true}]})",
               R"({"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}]})",
               R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
                   {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]})",
               R"({"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0], ["[CLS]", 0], ["\u2581the", -1.5], ["\u2581", -2], ["b", -3]], "byte_fallback": false})"),
      composed("null",
               R"j({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(?i:'s)|[^\\r\\n\\p{L}]?\\p{L}+|[\\p{N}&&[^1]]{1,3}|\\s+(?!\\S)"},
                   "behavior": "Removed", "invert": true}, {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false}]})j",
               R"({"type": "RobertaProcessing", "sep": ["[UNK]", 0], "cls": ["[CLS]", 1], "trim_offsets": true, "add_prefix_space": true})",
               R"({"type": "BPEDecoder", "suffix": "</w>"})",
               R"({"type": "BPE", "unk_token": "[UNK]", "fuse_unk": true, "byte_fallback": true, "end_of_word_suffix": "</w>",
                   "vocab": {"[UNK]": 0, "[CLS]": 1, "t": 2, "h": 3, "th": 4, "e</w>": 5, "<0xFF>": 6}, "merges": ["t h"]})"),
      "The harbour is quiet.\n<|endoftext|>\nIt's raining, we'll wait. \xE6\xB5\xB7\xE8\xBE\xB9 \xF0\x9F\x90\x9F\n",
      "1{\"text\": \"one\"}\n{\"text\": \"t\\u00e4o\", \"x\": [1, {\"y\": null}]}\n",
      "1{\"messages\": [{\"role\": \"user\", \"content\": \"hi <|end|>\"}, {\"role\": \"assistant\", \"content\": \"yes\"}]}\n",
      std::string("0\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xc8\xe4\x02\0\x7a\x7a\x6f\xed\x03\0\0\0", 24),  // gzip of "hi\n"
      std::string("0\x28\xb5\x2f\xfd\x04\x58\x19\0\0hi\n", 13),                                       // zstd, without its checksum
      std::string("0\xfd" "7zXZ\0\0\x04\xe6\xd6\xb4\x46", 13),                                        // the head of an xz file
      "0" + std::string(3000, ' ') + std::string(3000, 'a') + "\n\n\n",
      "\xFF\xFE\x80<|end|><|endoftext|><|end",
  };
}
