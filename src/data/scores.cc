#include "data/scores.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "base/error.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

std::vector<double> ranks(std::span<const double> x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t j = i;
    while (j < order.size() && x[order[j]] == x[order[i]]) ++j;
    for (std::size_t k = i; k < j; ++k) out[order[k]] = static_cast<double>(i + j - 1) / 2;
    i = j;
  }
  return out;
}

// Positions of the documents, best score first.
std::vector<std::size_t> by_score(std::span<const double> scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  return order;
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }
double f1_of(double precision, double recall) { return ratio(2 * precision * recall, precision + recall); }

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

// (first word, last word, type) of each entity in a sentence.
std::set<std::tuple<std::size_t, std::size_t, std::string>> entities(const std::vector<std::string>& tags, bool bio) {
  std::set<std::tuple<std::size_t, std::size_t, std::string>> out;
  std::string type;
  std::size_t begin = 0;
  const auto close = [&](std::size_t end) {
    if (!type.empty()) out.emplace(begin, end, type);
    type.clear();
  };
  for (std::size_t i = 0; i < tags.size(); ++i) {
    const std::string& tag = tags[i];
    const bool inside = bio && tag.size() > 2 && tag[1] == '-';
    const std::string now = tag == "O" || tag.empty() ? "" : inside ? tag.substr(2) : tag;
    const bool goes_on = inside && tag[0] == 'I' && now == type;
    if (goes_on) continue;
    close(i);
    type = now, begin = i;
  }
  close(tags.size());
  return out;
}

}  // namespace

ClassScores class_scores(std::span<const std::int32_t> predicted, std::span<const std::int32_t> truth, std::int64_t classes) {
  check(predicted.size() == truth.size(), "one prediction an example");
  ClassScores out;
  if (truth.empty()) return out;
  const auto n = static_cast<double>(truth.size());
  std::vector<double> right(static_cast<std::size_t>(classes)), said(right), is(right);
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const auto p = static_cast<std::size_t>(predicted[i]), t = static_cast<std::size_t>(truth[i]);
    check(p < said.size() && t < is.size(), "classes are in range");
    ++said[p], ++is[t];
    if (p == t) ++right[p];
  }
  double correct = 0, f1 = 0, present = 0, products = 0, said_squares = 0, is_squares = 0;
  for (std::size_t k = 0; k < right.size(); ++k) {
    correct += right[k];
    products += said[k] * is[k], said_squares += said[k] * said[k], is_squares += is[k] * is[k];
    if (said[k] + is[k] == 0) continue;
    ++present;
    f1 += 2 * right[k] / (said[k] + is[k]);
  }
  out.accuracy = correct / n;
  out.macro_f1 = ratio(f1, present);
  const double scale = std::sqrt((n * n - said_squares) * (n * n - is_squares));
  out.matthews = scale > 0 ? (correct * n - products) / scale : 0;
  out.f1 = classes == 2 ? ratio(2 * right[1], said[1] + is[1]) : out.macro_f1;
  return out;
}

double pearson(std::span<const double> a, std::span<const double> b) {
  check(a.size() == b.size(), "pearson takes lists of one length");
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n, mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i] - mean_a, y = b[i] - mean_b;
    ab += x * y, aa += x * x, bb += y * y;
  }
  return ratio(ab, std::sqrt(aa * bb));
}

double spearman(std::span<const double> a, std::span<const double> b) { return pearson(ranks(a), ranks(b)); }

double mean_square_error(std::span<const double> a, std::span<const double> b) {
  check(a.size() == b.size(), "the error is taken of lists of one length");
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return ratio(sum, static_cast<double>(a.size()));
}

// Lower case, then no ASCII punctuation, then no articles (as words: between characters that are no letters, digits or '_'), then
// single spaces. Letters, digits and spaces are Unicode's, as in the official scripts.
std::string normalized_answer(std::string_view text) {
  const std::string clean = utf8_cleaned(text);
  std::string plain, word, out;
  const auto finish_word = [&] {
    plain += word == "a" || word == "an" || word == "the" ? " " : word;
    word.clear();
  };
  for (std::size_t at = 0; at < clean.size();) {
    const CodePoint c = code_point(clean, at);
    at += c.length;
    if (c.value < 128 && (std::ispunct(static_cast<int>(c.value)) != 0)) continue;  // not even a boundary: "the_end" is "theend"
    const bool letter = has(c.value, property::word | property::numeric) && !has(c.value, property::mark);
    if (!letter) finish_word();
    append_utf8(letter ? word : plain, lower_case(c.value));
  }
  finish_word();
  for (std::size_t at = 0; at < plain.size();) {
    const CodePoint c = code_point(plain, at);
    const bool blank = has(c.value, property::space) || (c.value >= 0x1c && c.value <= 0x1f);
    if (!blank)
      out.append(plain, at, c.length);
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
    at += c.length;
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

double exact_match(std::string_view predicted, std::string_view truth) {
  return normalized_answer(predicted) == normalized_answer(truth) ? 1 : 0;
}

double token_f1(std::string_view predicted, std::string_view truth) {
  const auto p = words_of(normalized_answer(predicted)), t = words_of(normalized_answer(truth));
  if (p.empty() || t.empty()) return p.empty() && t.empty() ? 1 : 0;
  std::map<std::string, int> left;
  for (const std::string& word : t) ++left[word];
  double common = 0;
  for (const std::string& word : p)
    if (auto it = left.find(word); it != left.end() && it->second-- > 0) ++common;
  return f1_of(common / static_cast<double>(p.size()), common / static_cast<double>(t.size()));
}

AnswerScores answer_scores(std::string_view predicted, std::span<const std::string> truths) {
  AnswerScores out;
  bool any = false;
  for (const std::string& truth : truths) {
    if (normalized_answer(truth).empty()) continue;  // as SQuAD 2.0's script
    any = true;
    out.exact = std::max(out.exact, exact_match(predicted, truth));
    out.f1 = std::max(out.f1, token_f1(predicted, truth));
  }
  if (!any) out.exact = out.f1 = normalized_answer(predicted).empty() ? 1 : 0;
  return out;
}

double reciprocal_rank(std::span<const double> scores, std::span<const double> relevance) {
  const auto order = by_score(scores);
  for (std::size_t i = 0; i < order.size(); ++i)
    if (relevance[order[i]] > 0) return 1.0 / static_cast<double>(i + 1);
  return 0;
}

double average_precision(std::span<const double> scores, std::span<const double> relevance) {
  const auto order = by_score(scores);
  double found = 0, sum = 0;
  for (std::size_t i = 0; i < order.size(); ++i)
    if (relevance[order[i]] > 0) sum += ++found / static_cast<double>(i + 1);
  return ratio(sum, found);
}

double ndcg(std::span<const double> scores, std::span<const double> relevance, std::int64_t at) {
  const auto gain = [&](const std::vector<std::size_t>& order) {
    double sum = 0;
    for (std::size_t i = 0; i < order.size() && static_cast<std::int64_t>(i) < at; ++i)
      sum += (std::exp2(relevance[order[i]]) - 1) / std::log2(static_cast<double>(i) + 2);
    return sum;
  };
  return ratio(gain(by_score(scores)), gain(by_score(relevance)));
}

TagScores tag_scores(const std::vector<std::vector<std::string>>& predicted, const std::vector<std::vector<std::string>>& truth) {
  check(predicted.size() == truth.size(), "one list of tags a sentence");
  bool bio = false;
  for (const auto& sentence : truth)
    for (const std::string& tag : sentence) bio |= tag.starts_with("B-") || tag.starts_with("I-");
  double right = 0, said = 0, is = 0, same = 0, words = 0;
  for (std::size_t s = 0; s < truth.size(); ++s) {
    const auto p = entities(predicted[s], bio), t = entities(truth[s], bio);
    said += static_cast<double>(p.size()), is += static_cast<double>(t.size());
    for (const auto& entity : p) right += t.contains(entity) ? 1 : 0;
    for (std::size_t w = 0; w < std::min(truth[s].size(), predicted[s].size()); ++w)
      same += truth[s][w] == predicted[s][w] ? 1 : 0;
    words += static_cast<double>(truth[s].size());
  }
  TagScores out{ratio(right, said), ratio(right, is), 0, ratio(same, words)};
  out.f1 = f1_of(out.precision, out.recall);
  return out;
}

}  // namespace rhetor
