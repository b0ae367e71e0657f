#include "text/added_tokens.h"

namespace rhetor {
namespace {
constexpr std::int64_t kMaxId = (1 << 22) - 1;
constexpr std::size_t kMaxBytes = 512;   // of the text of one added token
}  // namespace

AddedTokens::AddedTokens(const Json& json, const std::string& name, const Normalizer* normalizer) {
  if (json.is_null()) return;
  if (!json.is_array()) fail("{}: 'added_tokens' must be a list, found {}", name, json.type_name());
  AlignedText form;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const JsonPart part(json[i], fmt::format("{}: added token {}", name, i));
    AddedToken token;
    token.text = part.text("content");
    if (token.text.empty()) fail("{} has no text in 'content'", part.where());
    if (token.text.size() > kMaxBytes) fail("{} has {} bytes, the limit is {}", part.where(), token.text.size(), kMaxBytes);
    token.id = static_cast<TokenId>(part.integer("id", 0, kMaxId));
    token.special = part.flag("special", false);
    token.single_word = part.flag("single_word", false);
    token.lstrip = part.flag("lstrip", false);
    token.rstrip = part.flag("rstrip", false);
    token.normalized = part.flag("normalized", !token.special);
    if (!texts_.emplace(token.text, tokens_.size()).second) fail("{}: the added token {} appears twice", name, shown(token.text));
    if (!ids_.emplace(token.id, tokens_.size()).second)
      fail("{}: the added tokens {} and {} share the id {}", name, shown(tokens_[ids_[token.id]].text), shown(token.text), token.id);
    token.form = token.text;
    if (token.normalized && normalizer) {
      form.assign(token.text, 0);
      normalizer->apply(form);
      token.form = form.text;
    }
    if (!token.form.empty()) {   // its normal form may be
      matchers_[index(token.normalized, true)].add(token.form, static_cast<TokenId>(i));
      if (!token.special) matchers_[index(token.normalized, false)].add(token.form, static_cast<TokenId>(i));
    }
    tokens_.push_back(std::move(token));
  }
}

const AddedToken* AddedTokens::by_id(TokenId id) const {
  const auto found = ids_.find(id);
  return found == ids_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::by_text(std::string_view text) const {
  const auto found = texts_.find(std::string(text));
  return found == texts_.end() ? nullptr : &tokens_[found->second];
}

void AddedTokens::find(std::string_view text, bool normalized, bool specials, std::vector<Part>& out) const {
  const TextMatcher& matcher = matchers_[index(normalized, specials)];
  const auto is = [&](CodePoint c, std::uint32_t what) { return has(c.value, what); };
  std::size_t done = 0, from = 0;
  while (!matcher.empty()) {
    const auto match = matcher.find(text, from);
    if (match.id < 0) break;
    const AddedToken& token = tokens_[static_cast<std::size_t>(match.id)];
    std::size_t begin = match.begin, end = match.end;
    from = end;
    if (token.single_word && ((begin > 0 && is(code_point_before(text, begin), property::word)) ||
                              (end < text.size() && is(code_point(text, end), property::word))))
      continue;
    while (token.lstrip && begin > done) {
      const CodePoint c = code_point_before(text, begin);
      if (!is(c, property::space)) break;
      begin -= c.length;
    }
    while (token.rstrip && end < text.size()) {
      const CodePoint c = code_point(text, end);
      if (!is(c, property::space)) break;
      end += c.length;
    }
    if (begin > done) out.push_back({done, begin, nullptr});
    out.push_back({begin, end, &token});
    done = end;
    from = std::max(from, end);
  }
  if (done < text.size()) out.push_back({done, text.size(), nullptr});
}

}  // namespace rhetor
