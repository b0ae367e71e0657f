// Any bytes as the body of a completion request: refused with Error{invalid} (a 400), or a request within its limits.
#include "base/error.h"
#include "seeds.h"
#include "serve/api.h"

using namespace rhetor;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const bool chat : {false, true}) {
    try {
      const CompletionRequest request = parse_completion(body, chat);
      require(request.chat == chat && request.sampling.max_tokens > 0);
      require(request.sampling.temperature >= 0 && request.sampling.temperature <= 2);
      for (const std::string& stop : request.sampling.stop) require(!stop.empty());
    } catch (const Error& error) {
      require(error.kind() == ErrorKind::invalid);
      error_json(error.what(), "invalid_request_error");   // the reply quotes what it was sent
    }
  }
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
      "{\"prompt\":" + std::string(5000, '[') + std::string(5000, ']') + "}",
  };
}
