// The measures that training shows and `rhetor eval` reports, on plain vectors.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

// ---- labels: predicted and true class of each example ------------------------------------------------
struct ClassScores {
  double accuracy = 0;
  double macro_f1 = 0;  // mean over the classes that occur in either list
  double matthews = 0;  // correlation coefficient, many classes (Gorodkin 2004)
  double f1 = 0;        // of class 1 where there are two classes, else macro_f1
};
ClassScores class_scores(std::span<const std::int32_t> predicted, std::span<const std::int32_t> truth, std::int64_t classes);

// ---- numbers -------------------------------------------------------------------------------------------
double pearson(std::span<const double> a, std::span<const double> b);   // 0 if either is constant
double spearman(std::span<const double> a, std::span<const double> b);  // ties get their mean rank
double mean_square_error(std::span<const double> a, std::span<const double> b);

// ---- answers: SQuAD's ----------------------------------------------------------------------------------
// Lower case, without ASCII punctuation, without the words a, an, the; one space between words (of Unicode's letters and spaces).
std::string normalized_answer(std::string_view text);
double exact_match(std::string_view predicted, std::string_view truth);
double token_f1(std::string_view predicted, std::string_view truth);  // 1 if both are empty, 0 if one is
// The best over the true answers; none = "" is right.
struct AnswerScores {
  double exact = 0, f1 = 0;
};
AnswerScores answer_scores(std::string_view predicted, std::span<const std::string> truths);

// ---- rankings: score and relevance of one query's documents ------------------------------------------------
// Ties in score keep the given order. 0 where no document is relevant (relevance > 0).
double reciprocal_rank(std::span<const double> scores, std::span<const double> relevance);
double average_precision(std::span<const double> scores, std::span<const double> relevance);
double ndcg(std::span<const double> scores, std::span<const double> relevance,
            std::int64_t at);  // gain 2^relevance - 1 (Burges et al. 2005)

// ---- tags: BIO entities ------------------------------------------------------------------------------------
struct TagScores {
  double precision = 0, recall = 0, f1 = 0, accuracy = 0;
};
// One list of tags a sentence. Entities as CoNLL's script counts them: "B-x I-x", where "I-x" after another type begins one too.
// Without such tags ("B-", "I-") each tag other than "O" is an entity of one word.
TagScores tag_scores(const std::vector<std::vector<std::string>>& predicted, const std::vector<std::vector<std::string>>& truth);

}  // namespace rhetor
