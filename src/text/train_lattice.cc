#include <algorithm>
#include <cmath>

#include "text/train_unigram.h"
#include "text/utf8_walk.h"

namespace rhetor {
namespace {

constexpr double kNothing = -HUGE_VAL;

// sum += exp(value), kept as log: peak + log(sum of exp(value - peak)).
struct LogSum {
  double peak = kNothing, sum = 0;
  void add(double value) {
    if (value <= peak) {
      sum += std::exp(value - peak);
    } else {
      sum = sum * std::exp(peak - value) + 1;
      peak = value;
    }
  }
  double value() const { return peak == kNothing ? kNothing : peak + std::log(sum); }
};

}  // namespace

void PieceLattice::set(std::string_view text, const DoubleArray& trie, const std::vector<TrainPiece>& pieces, double unknown) {
  size_ = text.size();
  arcs_.clear();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t character = character_length(text, begin);
    bool whole = false;
    DoubleArray::Node node = DoubleArray::kRoot;
    for (std::size_t end = begin; end < text.size() && trie.step(node, static_cast<unsigned char>(text[end]));) {
      const std::int32_t id = trie.value(node);
      ++end;
      if (id < 0) continue;
      whole |= end - begin == character;
      arcs_.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end), id, pieces[static_cast<std::size_t>(id)].score});
    }
    if (!whole) arcs_.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(begin + character), -1, unknown});
    begin += character;
  }
}

double PieceLattice::expect(double count, std::vector<double>& expected) {
  // forward[i]: log of the sum over all cuts of text[0, i); backward[i]: of text[i, n). Arcs are sorted by begin, so each is final in time.
  thread_local std::vector<LogSum> sums;
  sums.assign(size_ + 1, {});
  forward_.assign(size_ + 1, kNothing);
  backward_.assign(size_ + 1, kNothing);
  forward_[0] = 0;
  for (std::size_t i = 0; i < arcs_.size(); ++i) {
    const Arc& arc = arcs_[i];
    if (arc.begin > 0 && (i == 0 || arcs_[i - 1].begin != arc.begin)) forward_[arc.begin] = sums[arc.begin].value();
    sums[arc.end].add(forward_[arc.begin] + arc.score);
  }
  const double total = size_ == 0 ? 0 : sums[size_].value();
  backward_[size_] = 0;
  for (std::size_t i = arcs_.size(); i > 0;) {
    LogSum sum;
    const std::uint32_t begin = arcs_[i - 1].begin;
    std::size_t first = i;
    for (; first > 0 && arcs_[first - 1].begin == begin; --first) sum.add(backward_[arcs_[first - 1].end] + arcs_[first - 1].score);
    backward_[begin] = sum.value();
    for (std::size_t k = first; k < i; ++k) {
      const Arc& arc = arcs_[k];
      if (arc.id >= 0)
        expected[static_cast<std::size_t>(arc.id)] += count * std::exp(forward_[arc.begin] + arc.score + backward_[arc.end] - total);
    }
    i = first;
  }
  return count * total;
}

bool PieceLattice::best(bool without_whole, std::vector<std::int32_t>& ids) {
  peak_.assign(size_ + 1, kNothing);
  through_.assign(size_ + 1, -1);
  peak_[0] = 0;
  for (std::size_t i = 0; i < arcs_.size(); ++i) {
    const Arc& arc = arcs_[i];
    if (without_whole && arc.begin == 0 && arc.end == size_) continue;
    const double score = peak_[arc.begin] + arc.score;
    if (score > peak_[arc.end]) {
      peak_[arc.end] = score;
      through_[arc.end] = static_cast<std::int32_t>(i);
    }
  }
  ids.clear();
  for (std::size_t end = size_; end > 0;) {
    if (through_[end] < 0) return false;
    const Arc& arc = arcs_[static_cast<std::size_t>(through_[end])];
    ids.push_back(arc.id);
    end = arc.begin;
  }
  std::reverse(ids.begin(), ids.end());
  return true;
}

}  // namespace rhetor
