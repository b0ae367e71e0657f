// The C interface: handles around the rooms below, exceptions turned into statuses at this one edge.
#include "rhetor/rhetor.h"

#include <cstring>
#include <map>
#include <memory>
#include <new>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "compress/compress.h"
#include "generate/chat_window.h"
#include "generate/generator.h"
#include "generate/plan_model.h"
#include "graph/text.h"
#include "ops/registry.h"
#include "runtime/executable.h"
#include "train/trainer.h"

namespace {

using namespace rhetor;

thread_local std::string last_error;

rhetor_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid: return RHETOR_INVALID;
    case ErrorKind::not_found: return RHETOR_NOT_FOUND;
    case ErrorKind::io: return RHETOR_IO;
    case ErrorKind::unsupported: return RHETOR_UNSUPPORTED;
    case ErrorKind::resource: return RHETOR_RESOURCE;
    case ErrorKind::internal: return RHETOR_INTERNAL;
  }
  return RHETOR_INTERNAL;
}

template <class Body>
rhetor_status guarded(Body&& body) {
  try {
    body();
    return RHETOR_OK;
  } catch (const Error& error) {
    last_error = error.what();
    return status_of(error.kind());
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return RHETOR_RESOURCE;
  } catch (const std::exception& error) {
    last_error = error.what();
    return RHETOR_INTERNAL;
  }
}

void require_pointer(const void* pointer, const char* what) {
  if (!pointer) fail("{} is NULL", what);
}

Sampling to_sampling(const rhetor_sampling* from) {
  Sampling sampling;
  if (!from) return sampling;
  if (from->size < sizeof(rhetor_sampling)) fail("rhetor_sampling.size is {}, expected {}", from->size, sizeof(rhetor_sampling));
  sampling.temperature = from->temperature;
  sampling.top_k = from->top_k;
  sampling.top_p = from->top_p;
  sampling.seed = from->seed;
  sampling.max_tokens = from->max_tokens;
  sampling.validate();
  return sampling;
}

void answer(const LanguageModel& model, const std::vector<TokenId>& prompt, const Sampling& sampling, rhetor_on_text on_text,
            void* user, rhetor_generation* result) {
  if (result && result->size < sizeof(rhetor_generation))
    fail("rhetor_generation.size is {}, expected {}", result->size, sizeof(rhetor_generation));
  const Generation g = generate(model, prompt, sampling, [&](std::string_view piece) {
    return !on_text || on_text(user, piece.data(), piece.size()) != 0;
  });
  if (!result) return;
  result->prompt_tokens = g.prompt_tokens;
  result->tokens = static_cast<std::int64_t>(g.tokens.size());
  result->first_token_ms = g.first_token_ms;
  result->total_ms = g.total_ms;
  result->stopped = g.finish == FinishReason::stop;
}

}  // namespace

struct rhetor_model {
  explicit rhetor_model(const char* path) : model(open_language_model(path)), window(*model) {}
  LanguageModelPtr model;
  ChatWindow window;
};

// Compiled at the first run, when the params are known.
struct rhetor_session {
  Graph graph;
  Weights params;
  std::map<std::string, Tensor> pending;   // inputs and states set before that
  std::unique_ptr<Session> session;

  const Type& type_of(const std::string& name) const {
    const ValueId id = graph.find_input(name);
    if (!id.valid()) fail("the graph has no input called '{}'", name);
    return graph.type(id);
  }
};

extern "C" {

const char* rhetor_version(void) { return kVersion.data(); }
const char* rhetor_last_error(void) { return last_error.c_str(); }

rhetor_status rhetor_set_threads(int threads) {
  return guarded([&] { set_default_threads(threads == 0 ? available_cores() : threads); });
}

rhetor_status rhetor_model_open(const char* path, rhetor_model** out) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(out, "out");
    *out = new rhetor_model(path);
  });
}
void rhetor_model_close(rhetor_model* model) { delete model; }
int64_t rhetor_model_context(const rhetor_model* model) { return model ? model->model->config().context : 0; }

rhetor_sampling rhetor_default_sampling(void) {
  const Sampling s;
  return {sizeof(rhetor_sampling), s.temperature, s.top_k, s.top_p, s.seed, s.max_tokens};
}

rhetor_status rhetor_generate(const rhetor_model* model, const char* prompt, const rhetor_sampling* sampling,
                              rhetor_on_text on_text, void* user, rhetor_generation* result) {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(prompt, "prompt");
    answer(*model->model, model->window.encode(prompt), to_sampling(sampling), on_text, user, result);
  });
}

rhetor_status rhetor_chat(const rhetor_model* model, const rhetor_message* messages, size_t count,
                          const rhetor_sampling* sampling, rhetor_on_text on_text, void* user, rhetor_generation* result) {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(messages, "messages");
    std::vector<ChatMessage> list;
    for (size_t i = 0; i < count; ++i) {
      require_pointer(messages[i].role, "a message's role");
      require_pointer(messages[i].content, "a message's content");
      list.push_back({messages[i].role, messages[i].content});
    }
    const Sampling chosen = model->window.conversing(to_sampling(sampling));
    answer(*model->model, model->window.fit(list, chosen.max_tokens).tokens, chosen, on_text, user, result);
  });
}

rhetor_status rhetor_train(const char* recipe, const char* const* overrides, size_t count) {
  return guarded([&] {
    require_pointer(recipe, "recipe");
    std::vector<std::string> list;
    for (size_t i = 0; i < count; ++i) {
      require_pointer(overrides[i], "an override");
      list.emplace_back(overrides[i]);
    }
    train(Recipe::load(recipe, list));
  });
}

rhetor_status rhetor_compress_int8(const char* model_folder, const char* output_folder) {
  return guarded([&] {
    require_pointer(model_folder, "model_folder");
    require_pointer(output_folder, "output_folder");
    save_model(output_folder, quantize_int8(*load_model(model_folder)));
  });
}

rhetor_status rhetor_compile(const char* model_folder, const char* plan_file) {
  return guarded([&] {
    require_pointer(model_folder, "model_folder");
    require_pointer(plan_file, "plan_file");
    compile_to_plan(model_folder, plan_file, {}, {1, 2, 4});
  });
}

rhetor_status rhetor_session_open(const char* graph_text, rhetor_session** out) {
  return guarded([&] {
    require_pointer(graph_text, "graph_text");
    require_pointer(out, "out");
    auto session = std::make_unique<rhetor_session>();
    session->graph = parse_graph(graph_text, all_ops());
    *out = session.release();
  });
}
void rhetor_session_close(rhetor_session* session) { delete session; }

rhetor_status rhetor_session_set(rhetor_session* session, const char* name, const void* data, size_t bytes) {
  return guarded([&] {
    require_pointer(session, "session");
    require_pointer(name, "name");
    require_pointer(data, "data");
    const Type& type = session->type_of(name);
    if (bytes != type.bytes()) fail("'{}' is {}: {} bytes expected, {} given", name, type.str(), type.bytes(), bytes);
    const InputKind kind = session->graph.input_kind(session->graph.find_input(name).node);
    if (kind == InputKind::param && session->session)
      fail("the param '{}' is fixed by the first run; open a new session to change it", name);
    if (session->session) {
      Tensor& to = kind == InputKind::state ? session->session->state(name) : session->session->input(name);
      std::memcpy(to.raw(), data, bytes);
      return;
    }
    Tensor value = Tensor::uninitialized(type);
    std::memcpy(value.raw(), data, bytes);
    if (kind == InputKind::param) session->params[name] = value;
    else session->pending[name] = value;
  });
}

rhetor_status rhetor_session_run(rhetor_session* session) {
  return guarded([&] {
    require_pointer(session, "session");
    if (!session->session) {
      session->session = std::make_unique<Session>(compile(session->graph, session->params));
      for (auto& [name, value] : session->pending) {
        const bool state = session->graph.input_kind(session->graph.find_input(name).node) == InputKind::state;
        Tensor& to = state ? session->session->state(name) : session->session->input(name);
        std::memcpy(to.raw(), value.raw(), value.bytes());
      }
      session->pending.clear();
    }
    session->session->run();
  });
}

rhetor_status rhetor_session_get(rhetor_session* session, const char* name, void* data, size_t bytes) {
  return guarded([&] {
    require_pointer(session, "session");
    require_pointer(name, "name");
    require_pointer(data, "data");
    if (!session->session) fail("'{}' has no value before the first run", name);
    const bool is_output = session->graph.find_output(name).valid();
    const Tensor& from = is_output ? session->session->output(name) : session->session->state(name);
    if (bytes != from.bytes()) fail("'{}' is {}: {} bytes, {} asked for", name, from.type().str(), from.bytes(), bytes);
    std::memcpy(data, from.raw(), bytes);
  });
}

}  // extern "C"
