#include "text/train_pairs.h"

#include <algorithm>

namespace rhetor {

PairTrainer::PairTrainer(std::vector<Word> words, MakeToken make_token) : words_(std::move(words)), make_token_(std::move(make_token)) {
  for (std::uint32_t w = 0; w < words_.size(); ++w) {
    const auto& ids = words_[w].ids;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) change(ids[i], ids[i + 1], words_[w].count, w);
  }
  heap_.reserve(pairs_.size());
  for (const auto& [key, pair] : pairs_) heap_.push_back({pair.count, key});
  std::make_heap(heap_.begin(), heap_.end());
}

void PairTrainer::push(Candidate candidate) {
  heap_.push_back(candidate);
  std::push_heap(heap_.begin(), heap_.end());
}

bool PairTrainer::step(std::int64_t min_count) {
  while (!heap_.empty()) {
    const Candidate top = heap_.front();
    if (top.count < std::max<std::int64_t>(min_count, 1)) return false;
    std::pop_heap(heap_.begin(), heap_.end());
    heap_.pop_back();
    const auto found = pairs_.find(top.key);
    if (found == pairs_.end()) continue;
    if (found->second.count != top.count) {
      if (found->second.count > 0) push({found->second.count, top.key});
      continue;
    }
    if (merge(top.key)) return true;
  }
  return false;
}

void PairTrainer::change(TokenId left, TokenId right, std::int64_t by, std::uint32_t word) {
  const std::uint64_t key = pair_key(left, right);
  Pair& pair = pairs_[key];
  pair.count += by;
  if (by <= 0) return;
  if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
  touched_.push_back(key);
}

bool PairTrainer::merge(std::uint64_t key) {
  left_ = static_cast<TokenId>(key >> 32);
  right_ = static_cast<TokenId>(key & 0xFFFFFFFFu);
  result_ = make_token_(left_, right_);
  const std::vector<std::uint32_t> where = std::move(pairs_[key].words);
  if (result_ < 0) {
    pairs_.erase(key);
    return false;
  }
  touched_.clear();
  for (const std::uint32_t word : where) merge_in(word);
  pairs_.erase(key);
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (const std::uint64_t changed : touched_) {
    const auto found = pairs_.find(changed);
    if (found != pairs_.end() && found->second.count > 0) push({found->second.count, changed});
  }
  return true;
}

void PairTrainer::merge_in(std::uint32_t word) {
  auto& ids = words_[word].ids;
  const std::int64_t count = words_[word].count;
  std::size_t to = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i + 1 == ids.size() || ids[i] != left_ || ids[i + 1] != right_) {
      ids[to++] = ids[i];
      continue;
    }
    // to - 1 is what precedes in the merged word: its pair with `left` was counted and ends here.
    if (to > 0) {
      change(ids[to - 1], left_, -count, word);
      change(ids[to - 1], result_, count, word);
    }
    if (i + 2 < ids.size()) {
      change(right_, ids[i + 2], -count, word);
      change(result_, ids[i + 2], count, word);
    }
    ids[to++] = result_;
    ++i;
  }
  ids.resize(to);
}

}  // namespace rhetor
