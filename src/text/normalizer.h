// Normalisers: what happens to a text before it is cut into words. Internal to the room.
// Thread-safety: immutable.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/aligned_text.h"
#include "text/json_reader.h"

namespace rhetor {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(AlignedText& text) const = 0;
};
using NormalizerPtr = std::unique_ptr<const Normalizer>;

// One object of tokenizer.json's "normalizer", which may be a Sequence. Null JSON gives a null pointer. `where` names it in messages.
NormalizerPtr make_normalizer(const Json& json, const std::string& where);

NormalizerPtr make_bert_normalizer(const JsonPart& part);
NormalizerPtr make_charsmap_normalizer(const JsonPart& part);

inline constexpr char32_t kDropped = 0xFFFFFFFF;

// Replaces each character by f(character), or drops it.
template <class F>
void map_characters(AlignedText& t, F&& f) {
  std::size_t copied = 0;
  bool rewriting = false;
  Rewriter out(t);
  for (std::size_t i = 0; i < t.text.size();) {
    const CodePoint c = code_point(t.text, i);
    const char32_t to = f(c.value);
    if (to != c.value) {
      if (to < 0x80 && c.value < 0x80) {
        t.text[i] = static_cast<char>(to);   // places stay as they are
      } else {
        out.copy(copied, i);
        if (to != kDropped) out.put(to, t.at(i));
        copied = i + c.length;
        rewriting = true;
      }
    }
    i += c.length;
  }
  if (!rewriting) return;
  out.copy(copied, t.text.size());
  out.done();
}

void lower_case(AlignedText& text);
// Spells every byte with a character of GPT-2's byte alphabet.
void spell_bytes(AlignedText& text);

}  // namespace rhetor
