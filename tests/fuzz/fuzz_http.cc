// Any bytes as the body of a request, for every route: refused with Error{invalid} (a 400), or a request within its limits. And any bytes
// as a chat template's file.
#include "base/error.h"
#include "data/chat_template.h"
#include "seeds.h"
#include "serve/api.h"
#include "serve/api_tasks.h"

using namespace rhetor;

namespace {

void check_completion(std::string_view body, bool chat) {
  const CompletionRequest request = parse_completion(body, chat);
  const Sampling& s = request.sampling;
  require(request.chat == chat && s.max_tokens > 0 && s.n >= 1 && s.n <= kMaxAnswers && s.beams >= 1);
  require(s.temperature >= 0 && s.temperature <= 2 && s.min_p >= 0 && s.top_logprobs <= 20);
  require(chat ? !request.messages.empty() : !request.prompts.empty() || !request.token_prompts.empty());
  for (const std::string& stop : s.stop) require(!stop.empty());
  for (const auto& tokens : request.token_prompts) {
    for (const TokenId id : tokens) require(id >= 0);
  }
}

void check_task(std::string_view body, EncoderTask kind) {
  const EncoderRequest request = parse_task(kind, body);
  require(request.kind == kind && !request.inputs.empty() && request.inputs.size() <= kMaxInputs);
  for (const TextPair& input : request.inputs) require(!input.first.empty());
  // The reply quotes what was sent: offsets of any answer must be within it.
  EncoderResult result;
  for (const TextPair& input : request.inputs) {
    const auto size = static_cast<std::int64_t>(kind == EncoderTask::answer ? input.second.size() : input.first.size());
    result.vectors.push_back({1, 0});
    result.scores.push_back(static_cast<double>(size % 7));
    result.labels.push_back({{input.first, 0.5}});
    result.words.push_back({{size / 3, size / 2, {"x", 1}}, {0, size, {"y", 1}}});
    result.answers.push_back({"", size / 4, size / 2, 0, 0});
  }
  if (request.dimensions <= 2) task_json(request, result, request.model);
}

template <class Check>
void expect_refusal_or_nothing(const Check& check) {
  try {
    check();
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::invalid);
    error_json(error.what(), "invalid_request_error");   // the reply quotes what it was sent
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const bool chat : {false, true}) expect_refusal_or_nothing([&] { check_completion(body, chat); });
  for (const EncoderTask kind : {EncoderTask::embed, EncoderTask::rank, EncoderTask::classify, EncoderTask::tag, EncoderTask::answer})
    expect_refusal_or_nothing([&] { check_task(body, kind); });
  expect_refusal_or_nothing([&] {
    const ChatTemplate found = parse_chat_template(body, "chat_template.json");
    found.render({{"system", "s"}, {"user", std::string(body.substr(0, 200))}, {"assistant", "a"}}, true, found.stop);
    parse_chat_template(found.to_json(), "its own text");
  });
  recognise_chat_template(body, "</s>");
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      "",
      "[]",
      R"({"prompt": "The harbour", "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n", "x"], "stream": true})",
      R"({"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "h\u00e4llo \ud83d\ude00"}],
          "stream": true, "stream_options": {"include_usage": true}, "n": 1, "max_completion_tokens": 3, "stop": "."})",
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": 1}]}], "tools": [], "logprobs": false})",
      R"({"prompt": ["x"], "response_format": {"type": "text"}, "frequency_penalty": 0, "logit_bias": {"1": -100}, "top_k": 1e9})",
      R"({"prompt": [[1, 2], [3]], "n": 2, "best_of": 2, "logprobs": 5, "min_p": 0.1, "repetition_penalty": 1.1, "beams": 4, "timeout": 2.5, "echo": false})",
      R"({"input": ["one", "zwei \u6d77"], "encoding_format": "base64", "dimensions": 2, "truncate": true, "model": "m"})",
      R"({"query": "who?", "documents": ["a", {"text": "b \ud83d\udc1f"}], "top_n": 1, "return_documents": true, "timeout": 1})",
      R"({"input": [{"text": "a", "text_pair": "b"}, "c"]})",
      R"({"question": "who?", "passage": "Ann \u00e4 lives.", "top_k": 2, "stride": 16, "allow_no_answer": false, "no_answer_threshold": 0.5})",
      R"({"name": "x", "begin": "<s>", "system": ["<<", ">>"], "user": ["U:", "\n"], "assistant": ["A:", "\n"], "open": "A:", "stop": ["\nU:"], "trim": true})",
      R"({"family": "llama2"})",
      "{% for m in messages %}{{ '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}{{ m['content'] + eos_token }}{% endfor %}",
      "{\"prompt\":" + std::string(5000, '[') + std::string(5000, ']') + "}",
  };
}
