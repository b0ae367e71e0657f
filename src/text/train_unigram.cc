// Training of Unigram (Kudo 2018), with the choices of SentencePiece: two rounds of expectation maximisation, then the quarter of the
// pieces whose loss costs least likelihood is dropped, until the vocabulary has its size.
#include "text/train_unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/error.h"
#include "base/thread_pool.h"
#include "text/train_common.h"
#include "text/unigram.h"

namespace rhetor {
namespace {

constexpr std::size_t kSeeds = 1'000'000;
constexpr double kShrink = 0.75;
constexpr int kRounds = 2;
constexpr double kLeastExpected = 0.5;     // pieces expected less often are dropped
constexpr int kParts = 8;                  // sums are made in this many parts whatever the number of threads: same bits everywhere

// Derivative of log gamma, by its asymptotic series shifted by 1/2.
double digamma(double x) {
  double result = 0;
  for (; x < 7; ++x) result -= 1 / x;
  x -= 0.5;
  const double y = 1 / (x * x);
  return result + std::log(x) + y * (1.0 / 24 - y * (7.0 / 960 - y * (31.0 / 8064 - y * (127.0 / 30720))));
}

class UnigramTrainer {
 public:
  UnigramTrainer(const std::vector<WordCount>& words, const ModelTrainOptions& options) : options_(options) {
    for (const std::uint32_t w : sorted_by_text(words)) {
      if (words[w].count > 0 && !words[w].word.empty()) words_.push_back(words[w]);
    }
  }

  TokenModelPtr train() {
    VocabularyBuilder vocabulary = start_vocabulary(options_);
    const auto alphabet = training_alphabet(words_, options_);
    const auto meta = static_cast<std::int64_t>(vocabulary.size());
    room_ = static_cast<std::size_t>(options_.vocab_size - meta);
    if (alphabet.size() > room_)
      fail("the vocabulary size is {}, but {} characters and {} other tokens must be in it; raise it or limit the alphabet", options_.vocab_size,
           alphabet.size(), meta);
    pieces_ = unigram_seeds(words_, alphabet, kSeeds);
    std::erase_if(pieces_, [](const TrainPiece& piece) { return piece.score <= 0; });  // characters of the alphabet that no word has
    double sum = 0;
    for (const auto& piece : pieces_) sum += piece.score;
    for (auto& piece : pieces_) piece.score = std::log(piece.score) - std::log(sum);
    const auto desired = static_cast<std::size_t>(static_cast<double>(options_.vocab_size) * 1.1);
    const auto seeds = static_cast<double>(pieces_.size());
    while (!pieces_.empty()) {
      index();
      for (int round = 0; round < kRounds; ++round) {
        maximise(expectations());
        index();
      }
      report(seeds, static_cast<double>(desired));
      if (pieces_.size() <= desired) break;
      const std::size_t before = pieces_.size();
      prune(desired);
      if (pieces_.size() >= before) break;  // nothing can go any more
    }
    return finish(vocabulary, alphabet);
  }

 private:
  void index() {
    std::vector<DoubleArray::Key> keys;
    keys.reserve(pieces_.size());
    double worst = 0;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      keys.emplace_back(pieces_[i].text, static_cast<std::int32_t>(i));
      worst = std::min(worst, pieces_[i].score);
    }
    worst_ = worst;
    trie_ = DoubleArray(std::move(keys));
  }

  // body(lattice, i, sums) for each i in [0, count), in parallel; the sums of the parts are added in order.
  template <class Body>
  std::vector<double> accumulate(std::size_t count, Body&& body) const {
    std::vector<std::vector<double>> parts(kParts);
    struct Context { Body& body; std::size_t count, pieces; std::vector<std::vector<double>>& parts; } context{body, count, pieces_.size(), parts};
    default_pool().run(kParts, [](void* opaque, int part) {
      auto& c = *static_cast<Context*>(opaque);
      auto& sums = c.parts[static_cast<std::size_t>(part)];
      sums.assign(c.pieces, 0);
      PieceLattice lattice;
      for (std::size_t i = static_cast<std::size_t>(part); i < c.count; i += kParts) c.body(lattice, i, sums);
    }, &context);
    for (int part = 1; part < kParts; ++part) {
      for (std::size_t i = 0; i < parts[0].size(); ++i) parts[0][i] += parts[static_cast<std::size_t>(part)][i];
    }
    return std::move(parts[0]);
  }

  // How often each piece occurs, over all segmentations by their probability.
  std::vector<double> expectations() const {
    return accumulate(words_.size(), [&](PieceLattice& lattice, std::size_t i, std::vector<double>& sums) {
      lattice.set(words_[i].word, trie_, pieces_, worst_ - kUnknownPenalty);
      lattice.expect(static_cast<double>(words_[i].count), sums);
    });
  }

  // Probabilities from occurrences, with the digamma function for the logarithm: a sparse prior (Liang & Klein 2007).
  void maximise(const std::vector<double>& expected) {
    double sum = 0;
    std::size_t to = 0;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (expected[i] < kLeastExpected) continue;
      sum += expected[i];
      if (to != i) pieces_[to] = std::move(pieces_[i]);
      pieces_[to++].score = digamma(expected[i]);
    }
    pieces_.resize(to);
    const double log_sum = digamma(sum);
    for (auto& piece : pieces_) piece.score -= log_sum;
  }

  // Drops the pieces whose replacement by their own second-best segmentation costs least likelihood.
  void prune(std::size_t desired) {
    std::vector<std::vector<std::int32_t>> others(pieces_.size());
    std::vector<char> stands(pieces_.size());
    accumulate(pieces_.size(), [&](PieceLattice& lattice, std::size_t i, std::vector<double>&) {
      lattice.set(pieces_[i].text, trie_, pieces_, worst_ - kUnknownPenalty);
      std::vector<std::int32_t> best;
      lattice.best(false, best);
      stands[i] = best.size() == 1;  // else the piece is cut even where it stands alone, and can go
      if (stands[i]) lattice.best(true, others[i]);
    });
    const std::vector<double> counts = accumulate(words_.size(), [&](PieceLattice& lattice, std::size_t i, std::vector<double>& sums) {
      thread_local std::vector<std::int32_t> best;
      lattice.set(words_[i].word, trie_, pieces_, worst_ - kUnknownPenalty);
      lattice.best(false, best);
      for (const std::int32_t id : best) {
        if (id >= 0) sums[static_cast<std::size_t>(id)] += static_cast<double>(words_[i].count);
      }
    });
    double sum = 0;
    for (const double count : counts) sum += count;
    std::vector<std::pair<double, std::size_t>> losses;
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      if (counts[i] == 0 || !stands[i]) continue;
      if (others[i].empty()) {
        kept.push_back(i);
        continue;
      }
      // Without the piece its occurrences become those of the others: the sum grows by (n - 1) each.
      const double log_sum = std::log(sum + counts[i] * static_cast<double>(others[i].size() - 1));
      double instead = 0;
      for (const std::int32_t id : others[i])
        instead += std::log((id < 0 ? 0 : counts[static_cast<std::size_t>(id)]) + counts[i]) - log_sum;
      losses.emplace_back(counts[i] * (std::log(counts[i]) - std::log(sum) - instead), i);
    }
    std::sort(losses.begin(), losses.end(), [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    const std::size_t target = std::max(desired, static_cast<std::size_t>(kShrink * static_cast<double>(pieces_.size())));
    for (const auto& [loss, i] : losses) {
      if (kept.size() >= target) break;
      kept.push_back(i);
    }
    std::vector<TrainPiece> next;
    next.reserve(kept.size());
    for (const std::size_t i : kept) next.push_back(std::move(pieces_[i]));
    pieces_ = std::move(next);
  }

  void report(double seeds, double desired) const {
    if (!options_.progress || seeds <= desired) return;
    const double done = std::log(seeds / std::max(static_cast<double>(pieces_.size()), 1.0)) / std::log(seeds / desired);
    options_.progress(std::clamp(done, 0.0, 1.0) * 0.99);
  }

  // All characters of the alphabet, then the best pieces; sorted by score.
  TokenModelPtr finish(VocabularyBuilder& vocabulary, const std::vector<std::string>& alphabet) {
    std::unordered_map<std::string_view, double> scores;
    for (const auto& piece : pieces_) scores.emplace(piece.text, piece.score);
    std::vector<TrainPiece> chosen;
    double penalty = 0;
    for (const auto& character : alphabet) {
      const auto found = scores.find(character);
      chosen.push_back({character, found != scores.end() ? found->second : worst_ + penalty});
      if (found == scores.end()) penalty += 0.0001;  // no two characters share the score
    }
    const auto better = [](const TrainPiece& a, const TrainPiece& b) { return a.score != b.score ? a.score > b.score : a.text < b.text; };
    std::sort(pieces_.begin(), pieces_.end(), better);
    for (const auto& piece : pieces_) {
      if (chosen.size() >= room_) break;
      if (!std::binary_search(alphabet.begin(), alphabet.end(), piece.text)) chosen.push_back(piece);
    }
    std::sort(chosen.begin(), chosen.end(), better);
    const TokenId unknown = vocabulary.find(options_.unknown);
    UnigramOptions model{.unknown = unknown, .byte_fallback = options_.byte_fallback};
    for (auto& piece : chosen) {
      if (vocabulary.find(piece.text) >= 0) piece.text.clear();  // a special token that is spelled like an ordinary piece
    }
    for (auto& text : vocabulary.take()) model.pieces.emplace_back(std::move(text), 0.0);
    for (auto& piece : chosen) {
      if (!piece.text.empty()) model.pieces.emplace_back(std::move(piece.text), piece.score);
    }
    if (options_.progress) options_.progress(1.0);
    return make_unigram(std::move(model));
  }

  const ModelTrainOptions& options_;
  std::vector<WordCount> words_;  // sorted by text
  std::vector<TrainPiece> pieces_;
  DoubleArray trie_;
  double worst_ = 0;              // the lowest score
  std::size_t room_ = 0;          // for pieces
};

}  // namespace

TokenModelPtr train_unigram(const std::vector<WordCount>& words, const ModelTrainOptions& options) {
  ModelTrainOptions with_defaults = options;
  if (with_defaults.unknown.empty()) with_defaults.unknown = "<unk>";
  return UnigramTrainer(words, with_defaults).train();
}

}  // namespace rhetor
