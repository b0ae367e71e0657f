/* Asks a model one question from C, streaming.   chat MODEL "question" */
#include <stdio.h>

#include "rhetor/rhetor.h"

static int print_piece(void* user, const char* piece, size_t bytes) {
  (void)user;
  return fwrite(piece, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s MODEL QUESTION\n", argv[0]);
    return 2;
  }
  rhetor_model* model = NULL;
  if (rhetor_model_open(argv[1], &model) != RHETOR_OK) {
    fprintf(stderr, "error: %s\n", rhetor_last_error());
    return 1;
  }
  rhetor_sampling sampling = rhetor_default_sampling();
  sampling.temperature = 0;
  sampling.max_tokens = 60;
  const rhetor_message message = {"user", argv[2]};
  rhetor_generation result = {sizeof result, 0, 0, 0, 0, 0};
  const rhetor_status status = rhetor_chat(model, &message, 1, &sampling, print_piece, NULL, &result);
  rhetor_model_close(model);
  if (status != RHETOR_OK) {
    fprintf(stderr, "error: %s\n", rhetor_last_error());
    return 1;
  }
  printf("\n[%lld tokens, first after %.1f ms]\n", (long long)result.tokens, result.first_token_ms);
  return 0;
}
