#include "serve/api_tasks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "serve/api.h"
#include "serve/json_fields.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

std::string text_of(const Body& item, const char* name, std::size_t index) {
  if (item.is_number() || (item.is_array() && !item.empty() && item[0].is_number()))
    fail("'{}' holds token ids; this service takes text", name);
  if (!item.is_string()) fail("'{}[{}]' must be a string, found {}", name, index, item.type_name());
  const auto& value = item.get_ref<const std::string&>();
  if (value.empty()) fail("'{}[{}]' is an empty string", name, index);
  return value;
}

const Body& list_field(const Body& body, const char* name) {
  const Body* at = field(body, name);
  if (!at) fail("'{}' is missing", name);
  if (at->is_array() && at->empty()) fail("'{}' is an empty list", name);
  if (at->is_array() && at->size() > kMaxInputs)
    fail("'{}' has {} items, at most {} are allowed in one request", name, at->size(), kMaxInputs);
  return *at;
}

// {"text": ..., "text_pair": ...}: the names of Hugging Face's tokenizers.
TextPair pair_of(const Body& item, std::size_t index) {
  if (!item.is_object()) return {text_of(item, "input", index), ""};
  const auto part = [&](const char* name) -> std::string {
    const Body* at = field(item, name);
    if (!at) return "";
    if (!at->is_string()) fail("'input[{}].{}' must be a string, found {}", index, name, at->type_name());
    return at->get<std::string>();
  };
  TextPair out{part("text"), part("text_pair")};
  if (out.first.empty()) fail("'input[{}]' must be a string, or an object with 'text' and perhaps 'text_pair'", index);
  return out;
}

// "input": one text or a list of them; for `pairs` objects too.
void read_input(const Body& body, bool pairs, EncoderRequest& request) {
  const Body& input = list_field(body, "input");
  const auto add = [&](const Body& item, std::size_t i) {
    request.inputs.push_back(pairs ? pair_of(item, i) : TextPair{text_of(item, "input", i), ""});
  };
  request.single = !input.is_array();
  if (request.single) return add(input, 0);
  for (std::size_t i = 0; i < input.size(); ++i) add(input[i], i);
}

EncoderRequest begin(const Body& body, EncoderTask kind, bool truncate) {
  EncoderRequest request;
  request.kind = kind;
  request.model = model_of(body);
  request.timeout_s = timeout_of(body);
  request.truncate = boolean(body, "truncate", truncate);
  return request;
}

Json usage_json(std::int64_t tokens) { return {{"prompt_tokens", tokens}, {"total_tokens", tokens}}; }

std::string base64(std::span<const float> values) {
  static_assert(std::endian::native == std::endian::little, "the wire format is little-endian float32");
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::span<const std::byte> bytes = std::as_bytes(values);
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    const std::size_t left = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (k < left ? std::to_integer<std::uint32_t>(bytes[i + k]) : 0);
    for (std::size_t k = 0; k < 4; ++k) out += k <= left ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// The first `dimensions` numbers, made a vector of length 1 again (Kusupati et al. 2022, "Matryoshka representation learning").
std::vector<float> shortened(std::vector<float> vector, std::int64_t dimensions) {
  if (dimensions == 0) return vector;
  if (dimensions > static_cast<std::int64_t>(vector.size()))
    fail("'dimensions' is {}, the model's embeddings have {}", dimensions, vector.size());
  vector.resize(static_cast<std::size_t>(dimensions));
  double square = 0;
  for (const float x : vector) square += static_cast<double>(x) * x;
  if (square > 0) {
    for (float& x : vector) x = static_cast<float>(x / std::sqrt(square));
  }
  return vector;
}

// Written by hand: a document of 2,048 embeddings would cost many times its text in memory.
std::string embeddings_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model) {
  std::string out = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < result.vectors.size(); ++i) {
    const std::vector<float> vector = shortened(result.vectors[i], request.dimensions);
    out += fmt::format(R"({}{{"object":"embedding","index":{},"embedding":)", i > 0 ? "," : "", i);
    if (request.base64) {
      out += '"' + base64(vector) + '"';
    } else {
      for (std::size_t k = 0; k < vector.size(); ++k) out += fmt::format("{}{}", k > 0 ? ',' : '[', vector[k]);
      out += ']';
    }
    out += '}';
  }
  return out + fmt::format(R"(],"model":{},"usage":{}}})", json_quoted(model), dump(usage_json(result.tokens))) + "\n";
}

std::string rank_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model) {
  std::vector<std::size_t> order(result.scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return result.scores[a] > result.scores[b]; });
  if (request.top_n > 0 && static_cast<std::size_t>(request.top_n) < order.size())
    order.resize(static_cast<std::size_t>(request.top_n));
  Json list = Json::array();
  for (const std::size_t i : order) {
    Json entry = {{"index", i}, {"relevance_score", result.scores[i]}};
    if (request.return_documents) entry["document"] = {{"text", request.inputs[i].second}};
    list.push_back(std::move(entry));
  }
  return dump({{"id", new_id("rank")}, {"model", model}, {"results", std::move(list)}, {"usage", usage_json(result.tokens)}}) +
         "\n";
}

Json label_list(const std::vector<Label>& labels) {
  Json list = Json::array();
  for (const Label& label : labels) list.push_back({{"label", label.name}, {"score", label.score}});
  return list;
}

std::string classify_json(const EncoderResult& result, const std::string& model) {
  Json data = Json::array();
  for (std::size_t i = 0; i < result.labels.size(); ++i) {
    const auto& labels = result.labels[i];
    Json entry = {{"index", i}, {"label", nullptr}, {"score", nullptr}, {"labels", label_list(labels)}};
    if (!labels.empty()) entry["label"] = labels[0].name, entry["score"] = labels[0].score;
    data.push_back(std::move(entry));
  }
  return dump({{"id", new_id("classify")},
               {"object", "list"},
               {"model", model},
               {"data", std::move(data)},
               {"usage", usage_json(result.tokens)}}) +
         "\n";
}

// Byte offsets of a text as offsets of its Unicode characters, which is how Python and JSON's other readers count.
class CharacterOffsets {
 public:
  explicit CharacterOffsets(std::string_view text) : text_(text) {}
  // Offsets are asked for in any order; going back starts again.
  std::int64_t at(std::int64_t byte) {
    const auto target = std::min(static_cast<std::size_t>(std::max<std::int64_t>(0, byte)), text_.size());
    if (target < byte_) byte_ = 0, characters_ = 0;
    while (byte_ < target) {
      byte_ += static_cast<std::size_t>(utf8_char(text_.substr(byte_)).length);
      ++characters_;
    }
    return characters_;
  }

 private:
  std::string_view text_;
  std::size_t byte_ = 0;
  std::int64_t characters_ = 0;
};

std::string tag_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model) {
  Json data = Json::array();
  for (std::size_t i = 0; i < result.words.size(); ++i) {
    const std::string& text = request.inputs[i].first;
    CharacterOffsets offsets(text);
    Json words = Json::array();
    for (const TaggedWord& word : result.words[i]) {
      const auto begin = static_cast<std::size_t>(word.begin);
      words.push_back({{"text", text.substr(std::min(begin, text.size()), static_cast<std::size_t>(word.end - word.begin))},
                       {"start", offsets.at(word.begin)},
                       {"end", offsets.at(word.end)},
                       {"label", word.label.name},
                       {"score", word.label.score}});
    }
    data.push_back({{"index", i}, {"words", std::move(words)}});
  }
  return dump({{"id", new_id("tag")},
               {"object", "list"},
               {"model", model},
               {"data", std::move(data)},
               {"usage", usage_json(result.tokens)}}) +
         "\n";
}

std::string qa_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model) {
  CharacterOffsets offsets(request.inputs[0].second);
  Json answers = Json::array();
  for (const SpanAnswer& answer : result.answers) {
    const std::int64_t begin = offsets.at(answer.begin);
    answers.push_back({{"answer", answer.text},
                       {"start", begin},
                       {"end", offsets.at(answer.end)},
                       {"score", answer.score},
                       {"no_answer_gap", answer.no_answer_gap}});
  }
  return dump({{"id", new_id("qa")}, {"model", model}, {"answers", std::move(answers)}, {"usage", usage_json(result.tokens)}}) +
         "\n";
}

}  // namespace

EncoderRequest parse_embeddings(std::string_view body) {
  const Body json = parse_object(body);
  EncoderRequest request = begin(json, EncoderTask::embed, false);
  read_input(json, false, request);
  const std::string format = text(json, "encoding_format", "float");
  if (format != "float" && format != "base64")
    fail("'encoding_format' must be \"float\" or \"base64\", found \"{}\"", format.substr(0, 40));
  request.base64 = format == "base64";
  request.dimensions = integer(json, "dimensions", 0, 1, 1 << 20);
  return request;
}

EncoderRequest parse_rank(std::string_view body) {
  const Body json = parse_object(body);
  EncoderRequest request = begin(json, EncoderTask::rank, true);
  const std::string query = required_text(json, "query");
  const Body& documents = list_field(json, "documents");
  if (!documents.is_array()) fail("'documents' must be a list, found {}", documents.type_name());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const Body* item = &documents[i];
    if (item->is_object()) {
      const Body* inner = field(*item, "text");
      if (!inner) fail("'documents[{}]' must be a string or an object with 'text'", i);
      item = inner;
    }
    request.inputs.push_back({query, text_of(*item, "documents", i)});
  }
  request.top_n = integer(json, "top_n", 0, 1, 1 << 30);
  request.return_documents = boolean(json, "return_documents");
  return request;
}

EncoderRequest parse_classify(std::string_view body) {
  const Body json = parse_object(body);
  EncoderRequest request = begin(json, EncoderTask::classify, true);
  read_input(json, true, request);
  return request;
}

EncoderRequest parse_tag(std::string_view body) {
  const Body json = parse_object(body);
  EncoderRequest request = begin(json, EncoderTask::tag, true);
  read_input(json, false, request);
  return request;
}

EncoderRequest parse_qa(std::string_view body) {
  const Body json = parse_object(body);
  EncoderRequest request = begin(json, EncoderTask::answer, true);  // long passages go in windows
  request.inputs.push_back(
      {required_text(json, "question"), required_text(json, field(json, "passage") ? "passage" : "context")});
  request.ask.best = integer(json, "top_k", 1, 1, 100);
  request.ask.stride = integer(json, "stride", request.ask.stride, 1, 1 << 16);
  request.ask.max_answer_tokens = integer(json, "max_answer_tokens", request.ask.max_answer_tokens, 1, 1 << 16);
  request.ask.allow_no_answer = boolean(json, "allow_no_answer", request.ask.allow_no_answer);
  request.ask.no_answer_threshold = number(json, "no_answer_threshold", request.ask.no_answer_threshold, -1e6, 1e6);
  return request;
}

EncoderRequest parse_task(EncoderTask kind, std::string_view body) {
  switch (kind) {
    case EncoderTask::embed:
      return parse_embeddings(body);
    case EncoderTask::rank:
      return parse_rank(body);
    case EncoderTask::classify:
      return parse_classify(body);
    case EncoderTask::tag:
      return parse_tag(body);
    case EncoderTask::answer:
      break;
  }
  return parse_qa(body);
}

std::string task_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model) {
  switch (request.kind) {
    case EncoderTask::embed:
      return embeddings_json(request, result, model);
    case EncoderTask::rank:
      return rank_json(request, result, model);
    case EncoderTask::classify:
      return classify_json(result, model);
    case EncoderTask::tag:
      return tag_json(request, result, model);
    case EncoderTask::answer:
      break;
  }
  return qa_json(request, result, model);
}

}  // namespace rhetor
