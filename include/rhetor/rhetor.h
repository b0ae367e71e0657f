/* Rhetor for C: open, ask, train, compress and compile models, and run graphs.
 *
 * Every call returns a rhetor_status; on failure rhetor_last_error() gives one sentence for the calling thread. No call ever
 * exits or aborts the process. Strings are UTF-8 and NUL-terminated. Handles may be used from any thread; a rhetor_model may be
 * used by several threads at once, a rhetor_session by one at a time. Structs with a `size` member must have it set to
 * sizeof(the struct) as compiled: newer libraries then know which fields the caller has. */
#ifndef RHETOR_H_
#define RHETOR_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RHETOR_API __attribute__((visibility("default")))
#else
#define RHETOR_API
#endif

typedef enum rhetor_status {
  RHETOR_OK = 0,
  RHETOR_INVALID = 1,     /* a wrong argument, file content or option */
  RHETOR_NOT_FOUND = 2,
  RHETOR_IO = 3,
  RHETOR_UNSUPPORTED = 4,
  RHETOR_RESOURCE = 5,    /* out of memory or over a limit */
  RHETOR_INTERNAL = 6     /* a bug of Rhetor's */
} rhetor_status;

RHETOR_API const char* rhetor_version(void);
/* The sentence of the last failed call on this thread; "" if none failed. Valid until the thread's next failing call. */
RHETOR_API const char* rhetor_last_error(void);
/* CPU threads for all following work; 0 = all cores. Call it before anything else. */
RHETOR_API rhetor_status rhetor_set_threads(int threads);

/* ---- models ------------------------------------------------------------------------------------ */
typedef struct rhetor_model rhetor_model;

typedef struct rhetor_sampling {
  size_t size;
  double temperature;      /* 0 = greedy */
  int64_t top_k;           /* 0 = off */
  double top_p;            /* 1 = off */
  uint64_t seed;
  int64_t max_tokens;
} rhetor_sampling;

typedef struct rhetor_generation {
  size_t size;
  int64_t prompt_tokens, tokens;
  double first_token_ms, total_ms;
  int stopped;             /* 1: the model ended by itself; 0: max_tokens, full context, or cancelled */
} rhetor_generation;

typedef struct rhetor_message {
  const char* role;        /* "system", "user", "assistant" */
  const char* content;
} rhetor_message;

/* Receives the text piece by piece (whole UTF-8 characters, not NUL-terminated); return 0 to cancel. */
typedef int (*rhetor_on_text)(void* user, const char* piece, size_t bytes);

/* `path`: a model folder or a plan file. */
RHETOR_API rhetor_status rhetor_model_open(const char* path, rhetor_model** out);
RHETOR_API void rhetor_model_close(rhetor_model* model);
RHETOR_API int64_t rhetor_model_context(const rhetor_model* model);
RHETOR_API rhetor_sampling rhetor_default_sampling(void);
/* Continues `prompt`, in which nothing is special. `sampling` and `result` may be NULL. A prompt that fills the context fails
 * with RHETOR_RESOURCE. */
RHETOR_API rhetor_status rhetor_generate(const rhetor_model* model, const char* prompt, const rhetor_sampling* sampling,
                                         rhetor_on_text on_text, void* user, rhetor_generation* result);
/* Answers the last of `count` messages. The conversation is rendered with the model's own chat template (docs/serving.md, "Chat
 * templates"), exactly as the service renders it; a message cannot forge a turn. One that outgrows the context loses its oldest
 * turns; leading system messages and the last message stay, and fail with RHETOR_RESOURCE if they alone fill it. `sampling` and
 * `result` may be NULL. */
RHETOR_API rhetor_status rhetor_chat(const rhetor_model* model, const rhetor_message* messages, size_t count,
                                     const rhetor_sampling* sampling, rhetor_on_text on_text, void* user,
                                     rhetor_generation* result);

/* ---- making models ------------------------------------------------------------------------------ */
/* Trains by a TOML recipe file; `overrides` are "section.key=value" strings. */
RHETOR_API rhetor_status rhetor_train(const char* recipe, const char* const* overrides, size_t count);
RHETOR_API rhetor_status rhetor_compress_int8(const char* model_folder, const char* output_folder);
RHETOR_API rhetor_status rhetor_compile(const char* model_folder, const char* plan_file);

/* ---- graphs ------------------------------------------------------------------------------------- */
/* A graph in its text form (docs/graph-text.md), compiled for this machine. Params are inputs that are set once, before the first
 * run. */
typedef struct rhetor_session rhetor_session;
RHETOR_API rhetor_status rhetor_session_open(const char* graph_text, rhetor_session** out);
RHETOR_API void rhetor_session_close(rhetor_session* session);
/* Copies `bytes` bytes into the input, param or state called `name`; its exact size is required. */
RHETOR_API rhetor_status rhetor_session_set(rhetor_session* session, const char* name, const void* data, size_t bytes);
RHETOR_API rhetor_status rhetor_session_run(rhetor_session* session);
/* Copies the output or state called `name`. */
RHETOR_API rhetor_status rhetor_session_get(rhetor_session* session, const char* name, void* data, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif /* RHETOR_H_ */
