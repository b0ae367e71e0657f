// Training of byte-level BPE. Words are counted once; then each merge touches only the words that contain the merged pair, and a
// heap with stale entries gives the next best pair, so the cost is near linear in the distinct words.
#include <algorithm>
#include <cstdint>
#include <unordered_set>

#include "base/error.h"
#include "text/byte_bpe.h"
#include "text/pretokenize.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxWord = 256;         // longer runs (base64, rules of dashes) teach nothing and are cut
constexpr std::size_t kMaxTokenBytes = 64;
constexpr std::size_t kMaxDistinct = 8 << 20; // words kept at once; then those seen once are dropped, to bound the memory

using Counts = std::unordered_map<std::string, std::int64_t>;

void count_words(std::string_view text, Counts& counts) {
  WordScanner scanner(text);
  std::string_view word;
  std::string key;
  while (scanner.next(word)) {
    for (; !word.empty(); word.remove_prefix(std::min(word.size(), kMaxWord))) {
      key.assign(word.substr(0, kMaxWord));
      ++counts[key];
    }
  }
  if (counts.size() > kMaxDistinct) std::erase_if(counts, [](const auto& entry) { return entry.second < 2; });
}

struct Word {
  std::vector<TokenId> ids;
  std::int64_t count;
};
struct Pair {
  std::int64_t count = 0;
  std::vector<std::uint32_t> words;  // where it occurs or did: may hold repetitions and stale entries
};
struct Candidate {
  std::int64_t count;
  std::uint64_t key;
  // Most frequent first; of equals the smaller pair of ids. Stated as "less" for std::push_heap.
  bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
};

class BpeTrainer {
 public:
  BpeTrainer(const Counts& counts, BpeModel& model) : model_(model) {
    for (const auto& special : model.added) ids_.emplace(special.text, kSpecial);
    std::vector<const Counts::value_type*> order;
    for (const auto& entry : counts) {
      if (entry.first.size() > 1) order.push_back(&entry);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    words_.reserve(order.size());
    for (const auto* entry : order) {
      Word word{{}, entry->second};
      for (const char c : entry->first) word.ids.push_back(model.byte_ids[static_cast<unsigned char>(c)]);
      words_.push_back(std::move(word));
    }
    for (std::uint32_t w = 0; w < words_.size(); ++w) {
      const auto& ids = words_[w].ids;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) change(ids[i], ids[i + 1], words_[w].count, w);
    }
    for (const auto& [key, pair] : pairs_) heap_.push_back({pair.count, key});
    std::make_heap(heap_.begin(), heap_.end());
    touched_.clear();
  }

  // Adds one merge; false when no pair occurs twice.
  bool step() {
    while (!heap_.empty()) {
      const Candidate top = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
      const auto found = pairs_.find(top.key);
      if (found == pairs_.end() || top.count < 2) continue;
      if (found->second.count != top.count) {
        if (found->second.count > 0) push({found->second.count, top.key});
        continue;
      }
      if (merge(top.key)) return true;
    }
    return false;
  }

 private:
  void push(Candidate candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end());
  }

  void change(TokenId left, TokenId right, std::int64_t by, std::uint32_t word) {
    const std::uint64_t key = pair_key(left, right);
    Pair& pair = pairs_[key];
    pair.count += by;
    if (by > 0) {
      if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
      touched_.push_back(key);
    }
  }

  bool merge(std::uint64_t key) {
    const auto left = static_cast<TokenId>(key >> 32), right = static_cast<TokenId>(key & 0xffffffffu);
    std::string bytes = model_.tokens[static_cast<std::size_t>(left)] + model_.tokens[static_cast<std::size_t>(right)];
    const std::vector<std::uint32_t> where = std::move(pairs_[key].words);
    if (bytes.size() > kMaxTokenBytes) {
      pairs_.erase(key);
      return false;
    }
    const auto [known, is_new] = ids_.emplace(bytes, static_cast<TokenId>(model_.tokens.size()));
    const TokenId id = known->second;  // of an older token if there was another way to the same bytes
    if (id == kSpecial) {
      pairs_.erase(key);
      return false;
    }
    if (is_new) model_.tokens.push_back(std::move(bytes));
    model_.merges.push_back({left, right, id});
    touched_.clear();
    for (const std::uint32_t w : where) {
      auto& ids = words_[w].ids;
      const std::int64_t count = words_[w].count;
      std::size_t to = 0;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        if (i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right) {
          // to - 1 is what precedes in the merged word: its pair with `left` was counted and ends here.
          if (to > 0) {
            change(ids[to - 1], left, -count, w);
            change(ids[to - 1], id, count, w);
          }
          if (i + 2 < ids.size()) {
            change(right, ids[i + 2], -count, w);
            change(id, ids[i + 2], count, w);
          }
          ids[to++] = id;
          ++i;
        } else {
          ids[to++] = ids[i];
        }
      }
      ids.resize(to);
    }
    pairs_.erase(key);
    std::sort(touched_.begin(), touched_.end());
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const std::uint64_t changed : touched_) {
      const auto found = pairs_.find(changed);
      if (found != pairs_.end() && found->second.count > 0) push({found->second.count, changed});
    }
    return true;
  }

  static constexpr TokenId kSpecial = -1;  // ordinary text must never become a special token
  BpeModel& model_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::vector<Candidate> heap_;
  std::vector<std::uint64_t> touched_;            // pairs that gained occurrences in this merge
  std::unordered_map<std::string, TokenId> ids_;  // what merges have made
};

void check_options(const BpeTrainOptions& options) {
  const auto least = static_cast<std::int64_t>(256 + options.specials.size());
  if (options.vocab_size < least || options.vocab_size > (1 << 22))
    fail("the vocabulary size is {}, expected {} (256 bytes and {} special tokens) to {}", options.vocab_size, least, options.specials.size(),
         1 << 22);
  std::unordered_set<std::string> seen;
  for (const auto& text : options.specials) {
    if (text.size() < 2 || text.size() > 512 || utf8_valid_prefix(text) != text.size())
      fail("the special token '{}' must be 2 to 512 bytes of UTF-8", utf8_cleaned(text.substr(0, 40)));
    if (!seen.insert(text).second) fail("the special token '{}' is given twice", text);
  }
}

}  // namespace

TokenizerPtr train_byte_bpe(const std::function<bool(std::string& document)>& documents, const BpeTrainOptions& options) {
  check_options(options);
  BpeModel model;
  for (unsigned byte = 0; byte < 256; ++byte) {
    model.tokens.emplace_back(1, static_cast<char>(byte));
    model.byte_ids[byte] = static_cast<TokenId>(byte);
  }
  TextMatcher specials;
  for (const auto& text : options.specials) {
    const auto id = static_cast<TokenId>(model.tokens.size());
    model.tokens.push_back(text);
    model.added.push_back({id, text, true});
    specials.add(text, id);
  }

  // Special tokens in the text are boundaries: nothing is learned from them or across them.
  Counts counts;
  std::string document;
  while (documents(document)) {
    std::string_view rest = document;
    std::size_t at = 0;
    while (at < rest.size()) {
      const auto match = specials.find(rest, at);
      count_words(rest.substr(at, match.id < 0 ? std::string_view::npos : match.begin - at), counts);
      at = match.id < 0 ? rest.size() : match.end;
    }
  }

  BpeTrainer trainer(counts, model);
  const auto target = static_cast<std::size_t>(options.vocab_size);
  const double first = static_cast<double>(model.tokens.size());
  while (model.tokens.size() < target && trainer.step()) {
    if (options.progress && model.tokens.size() % 64 == 0)
      options.progress((static_cast<double>(model.tokens.size()) - first) / (static_cast<double>(target) - first));
  }
  if (options.progress) options.progress(1.0);
  return std::make_shared<ByteBpe>(std::move(model));
}

}  // namespace rhetor
