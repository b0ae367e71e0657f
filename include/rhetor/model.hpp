// A model that answers. Thread-safety: a Model may be asked by several threads at once.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rhetor/error.hpp"

namespace rhetor::api {

struct Message {
  std::string role, content;  // role: "system", "user" or "assistant"
};

struct Sampling {
  double temperature = 0.8;   // 0 = greedy
  std::int64_t top_k = 0;     // 0 = off
  double top_p = 1.0;
  std::uint64_t seed = 0;     // same seed, same text
  std::int64_t max_tokens = 256;
};

struct Answer {
  std::string text;
  std::int64_t prompt_tokens = 0, tokens = 0;
  double first_token_ms = 0, total_ms = 0;
  bool stopped = false;       // the model ended by itself
};

// Sees each piece of text as it is made; returns false to cancel.
using OnText = std::function<bool(std::string_view)>;

class Model {
 public:
  // `path`: a model folder or a plan file.
  explicit Model(const std::string& path) {
    rhetor_model* handle = nullptr;
    require(rhetor_model_open(path.c_str(), &handle));
    handle_.reset(handle);
  }
  std::int64_t context() const { return rhetor_model_context(handle_.get()); }

  Answer generate(const std::string& prompt, const Sampling& sampling = {}, const OnText& on_text = {}) const {
    return collect(sampling, on_text, [&](const rhetor_sampling* s, rhetor_on_text f, void* user, rhetor_generation* r) {
      return rhetor_generate(handle_.get(), prompt.c_str(), s, f, user, r);
    });
  }
  // By the model's own chat template; the oldest turns go if the conversation outgrows the context (rhetor_chat).
  Answer chat(const std::vector<Message>& messages, const Sampling& sampling = {}, const OnText& on_text = {}) const {
    std::vector<rhetor_message> list;
    for (const Message& m : messages) list.push_back({m.role.c_str(), m.content.c_str()});
    return collect(sampling, on_text, [&](const rhetor_sampling* s, rhetor_on_text f, void* user, rhetor_generation* r) {
      return rhetor_chat(handle_.get(), list.data(), list.size(), s, f, user, r);
    });
  }

 private:
  template <class Call>
  static Answer collect(const Sampling& sampling, const OnText& on_text, Call call) {
    struct State {
      Answer answer;
      const OnText* on_text;
      std::exception_ptr thrown;   // an exception must not cross the C frames in between
    } state{{}, &on_text, nullptr};
    const rhetor_sampling s{sizeof s, sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed, sampling.max_tokens};
    rhetor_generation result{};
    result.size = sizeof result;
    require(call(&s, [](void* user, const char* piece, std::size_t bytes) -> int {
      auto& st = *static_cast<State*>(user);
      try {
        st.answer.text.append(piece, bytes);
        return !*st.on_text || (*st.on_text)({piece, bytes});
      } catch (...) {
        st.thrown = std::current_exception();
        return 0;
      }
    }, &state, &result));
    if (state.thrown) std::rethrow_exception(state.thrown);
    state.answer.prompt_tokens = result.prompt_tokens;
    state.answer.tokens = result.tokens;
    state.answer.first_token_ms = result.first_token_ms;
    state.answer.total_ms = result.total_ms;
    state.answer.stopped = result.stopped != 0;
    return state.answer;
  }

  struct Close {
    void operator()(rhetor_model* model) const { rhetor_model_close(model); }
  };
  std::unique_ptr<rhetor_model, Close> handle_;
};

}  // namespace rhetor::api
