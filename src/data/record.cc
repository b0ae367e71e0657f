// One JSON line -> one document, by a streaming parser: it keeps the wanted strings only, so neither deep nesting nor a million
// other fields can cost memory.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/corpus.h"
#include "data/lines.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;

class RecordParser : public nlohmann::json_sax<Json> {
 public:
  explicit RecordParser(const CorpusOptions& options) : options_(options), field_(options.text_field) {}

  bool string(string_t& value) override {
    if (depth_ == 1 && key_ == field_) {
      text_ = std::move(value);
      has_text_ = true;
    } else if (in_messages_ && depth_ == 3) {
      if (key_ == "role") message_.role = std::move(value), has_role_ = true;
      if (key_ == "content") message_.content = std::move(value), has_content_ = true;
    }
    return scalar(depth_ == 1 && key_ == field_);
  }
  bool null() override { return scalar(false); }
  bool boolean(bool) override { return scalar(false); }
  bool number_integer(number_integer_t) override { return scalar(false); }
  bool number_unsigned(number_unsigned_t) override { return scalar(false); }
  bool number_float(number_float_t, const string_t&) override { return scalar(false); }
  bool binary(binary_t&) override { return scalar(false); }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      key_ = name;
      if (fields_.size() < 120) fields_ += (fields_.empty() ? "" : ", ") + utf8_cleaned(name.substr(0, 40));
    } else if (depth_ == 3 && in_messages_) {
      key_ = name;
    }
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ == 0) is_object_ = true;
    if (in_messages_ && depth_ == 2) message_ = {}, has_role_ = has_content_ = false;
    else note_wrong_type();
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    if (in_messages_ && depth_ == 2) {
      if (!has_role_ || !has_content_) problem_ = "a message lacks the string \"role\" or \"content\"";
      messages_.push_back(std::move(message_));
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ == 1 && key_ == "messages") {
      in_messages_ = has_messages_ = true;
      messages_.clear();
    } else {
      note_wrong_type();
    }
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    if (depth_ == 1) in_messages_ = false;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    error_at_ = position;
    return false;
  }

  // The document, or a sentence in `problem`.
  bool finish(std::string& document, std::string& problem) const {
    problem = problem_;
    if (!is_object_) {
      problem = "expected a JSON object";
    } else if (problem.empty() && has_messages_) {
      document = options_.chat_template->render(messages_, false, options_.specials);
      return true;
    } else if (problem.empty() && !has_text_) {
      problem = fmt::format("no field \"{}\" (fields there: {}); name the field that holds the text", field_,
                            fields_.empty() ? "none" : fields_);
    }
    if (!problem.empty()) return false;
    document = text_;
    return true;
  }
  std::size_t error_at() const { return error_at_; }

 private:
  bool scalar(bool is_text) {
    if (!is_text) note_wrong_type();
    return true;
  }
  void note_wrong_type() {
    if (depth_ == 1 && key_ == field_ && !in_messages_) problem_ = fmt::format("the field \"{}\" is not a string", field_);
    if (in_messages_ && depth_ == 2) problem_ = "an entry of \"messages\" is not an object";
  }

  const CorpusOptions& options_;
  const std::string& field_;
  std::string key_, text_, fields_, problem_;
  ChatMessage message_;
  std::vector<ChatMessage> messages_;
  std::size_t depth_ = 0, error_at_ = 0;
  bool is_object_ = false, has_text_ = false, in_messages_ = false, has_messages_ = false, has_role_ = false,
       has_content_ = false;
};

}  // namespace

void parse_record(std::string& record, const CorpusOptions& options, const std::string& file, std::uint64_t line,
                  std::string& document) {
  const auto parse = [&](RecordParser& parser) { return Json::sax_parse(record.begin(), record.end(), &parser); };
  std::string problem;
  const auto finish = [&](const RecordParser& parser) {
    try {
      if (!parser.finish(document, problem)) fail("'{}' line {}: {}", file, line, problem);
    } catch (const Error& error) {
      if (problem.empty()) fail("'{}' line {}: {}", file, line, error.what());  // from the chat template
      throw;
    }
  };
  RecordParser parser(options);
  if (parse(parser)) return finish(parser);
  // JSON is UTF-8 by definition; a few broken characters in a large crawl are replaced rather than refused.
  if (utf8_valid_prefix(record) != record.size()) {
    record = utf8_cleaned(record);
    RecordParser again(options);
    if (parse(again)) return finish(again);
  }
  fail("'{}' line {}: not valid JSON near byte {} of the line; every line of a JSONL file is one object", file, line,
       parser.error_at());
}

}  // namespace rhetor
