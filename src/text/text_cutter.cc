#include "text/text_cutter.h"

#include "text/pipeline.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace rhetor {

const Json& member_or_null(const Json& root, const char* key) {
  static const Json none;
  const auto found = root.find(key);
  return found == root.end() ? none : *found;
}

TextCutter::TextCutter(const Json& root, const std::string& name)
    : normalizer_(make_normalizer(member_or_null(root, "normalizer"), name + ": normalizer")),
      pre_(make_pre_tokenizers(member_or_null(root, "pre_tokenizer"), name + ": pre_tokenizer")),
      added_(member_or_null(root, "added_tokens"), name, normalizer_.get()) {}

WordSplitter make_word_splitter(std::string_view parts, const std::string& name) {
  const Json root = parse_json(parts, name);
  if (!root.is_object()) fail("{}: expected a JSON object, found {}", name, root.type_name());
  const auto cutter = std::make_shared<const TextCutter>(root, name);
  return [cutter](std::string_view text, const std::function<void(std::string_view)>& each) {
    CutWork work, rest;
    std::string word;
    const bool valid = utf8_valid_prefix(text) == text.size();
    const std::string cleaned = valid ? std::string() : utf8_cleaned(text);
    cutter->cut(valid ? text : std::string_view(cleaned), true, false, work, [](const AddedToken&, Encoding::Range) {},
                [&](const AlignedText& aligned, const std::vector<Span>& spans) {
                  const auto give = [&](std::string_view raw) {
                    if (!cutter->spell_bytes()) return each(raw);
                    word = spelled(raw);
                    each(word);
                  };
                  for (const Span span : spans) {
                    const std::string_view raw = std::string_view(aligned.text).substr(span.begin, span.end - span.begin);
                    if (!cutter->unfinished()) {
                      give(raw);
                      continue;
                    }
                    cutter->finish(raw, false, rest);
                    for (const Span part : rest.spans) give(std::string_view(rest.text.text).substr(part.begin, part.end - part.begin));
                  }
                });
  };
}

}  // namespace rhetor
