/* Runs ik_llama.cpp in this process and answers the cases `prefill` and `decode` with JSON lines.
 *
 *     ik_worker MODEL.gguf THREADS [plain]
 *
 * Tokens are random and nothing is sampled, as in llama_worker.py, so the peer does less work than
 * a server would. Weights are repacked for this CPU at the load (its users' flag -rtr) unless
 * `plain` is given, flash attention is on, and a step has at most 512 tokens. Output that the
 * library prints goes to stderr. workshop.py compiles this file against the checkout's header and
 * libraries.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "llama.h"

enum { CHUNK = 512, MAX_TOKENS = 64, MAX_FILLED = 16 };

/* A context whose streams have computed their prompts. */
struct filled {
  int streams;
  int length;
  struct llama_context* context;
};

static struct llama_model* model;
static int num_threads;
static int num_vocab;
static struct llama_batch batch;
static struct filled filled[MAX_FILLED];
static int num_filled;
static uint64_t random_state;

static void fail(const char* reason) {
  fprintf(stderr, "ik_worker: %s\n", reason);
  exit(1);
}

static void drop_log(enum ggml_log_level level, const char* text, void* data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A linear congruential generator; its high bits are random enough for token ids. */
static int random_token(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (int)((random_state >> 33) % (uint64_t)num_vocab);
}

static struct llama_context* new_context(int streams, int length) {
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = (uint32_t)(streams * length);
  params.n_batch = params.n_ubatch = CHUNK;
  params.n_seq_max = (uint32_t)streams;
  params.n_threads = params.n_threads_batch = (uint32_t)num_threads;
  params.flash_attn = true;
  struct llama_context* context = llama_init_from_model(model, params);
  if (context == NULL) fail("could not make a context");
  return context;
}

static void add_row(int position, int sequence, bool has_logits) {
  const int row = batch.n_tokens++;
  batch.token[row] = random_token();
  batch.pos[row] = position;
  batch.n_seq_id[row] = 1;
  batch.seq_id[row][0] = sequence;
  batch.logits[row] = has_logits;
}

static void decode(struct llama_context* context) {
  if (llama_decode(context, batch) != 0) fail("llama_decode failed");
  llama_synchronize(context);
  batch.n_tokens = 0;
}

/* Computes a prompt of a sequence and the logits of its last token. */
static void fill(struct llama_context* context, int sequence, int length) {
  for (int position = 0; position < length; ++position) {
    add_row(position, sequence, position == length - 1);
    if (batch.n_tokens == CHUNK || position == length - 1) decode(context);
  }
}

static double prefill_seconds(int num_tokens) {
  struct llama_context* context = new_context(1, num_tokens);
  const double begin = now();
  fill(context, 0, num_tokens);
  const double seconds = now() - begin;
  llama_free(context);
  return seconds;
}

static struct llama_context* filled_context(int streams, int length) {
  for (int i = 0; i < num_filled; ++i) {
    if (filled[i].streams == streams && filled[i].length == length) return filled[i].context;
  }
  if (num_filled == MAX_FILLED) fail("too many different cases");
  struct llama_context* context = new_context(streams, length + MAX_TOKENS);
  for (int sequence = 0; sequence < streams; ++sequence) fill(context, sequence, length);
  filled[num_filled++] = (struct filled){streams, length, context};
  return context;
}

/* Measures decode. The prompts are computed once; each call removes the tokens that it has added.
 */
static double generate_seconds(int streams, int length, int num_tokens) {
  if (streams > CHUNK || num_tokens > MAX_TOKENS) fail("a case has too many streams or tokens");
  struct llama_context* context = filled_context(streams, length);
  const double begin = now();
  for (int position = length; position < length + num_tokens; ++position) {
    for (int sequence = 0; sequence < streams; ++sequence) add_row(position, sequence, true);
    decode(context);
  }
  const double seconds = now() - begin;
  for (int sequence = 0; sequence < streams; ++sequence) {
    llama_kv_cache_seq_rm(context, sequence, length, -1);
  }
  return seconds;
}

static void load(const char* path, bool repacked) {
  llama_backend_init();
  llama_log_set(drop_log, NULL);
  struct llama_model_params params = llama_model_default_params();
  params.repack_tensors = repacked;
  params.use_mmap = !repacked; /* mapped pages cannot be repacked */
  params.flash_attn = true;
  model = llama_model_load_from_file(path, params);
  if (model == NULL) fail("could not load the model");
  num_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  batch = llama_batch_init(CHUNK, 0, 1);
  random_state = (uint64_t)time(NULL) ^ ((uint64_t)getpid() << 32);
}

/* Returns the file of the answers, and makes stdout the same as stderr for everything that the
 * library prints. */
static FILE* take_stdout(void) {
  FILE* out = fdopen(dup(STDOUT_FILENO), "w");
  if (out == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) fail("could not redirect stdout");
  return out;
}

int main(int argc, char** argv) {
  if (argc < 3 || (num_threads = atoi(argv[2])) < 1)
    fail("usage: ik_worker MODEL.gguf THREADS [plain]");
  FILE* out = take_stdout();
  load(argv[1], argc == 3);
  char description[128] = "";
  llama_model_desc(model, description, sizeof(description));
  fprintf(out, "{\"ready\": true, \"model\": \"%s\"}\n", description);
  fflush(out);
  char line[128];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    int streams = 1, length = 0, num_tokens = 0;
    double seconds = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "prefill %d", &num_tokens) == 1 && num_tokens > 0) {
      seconds = prefill_seconds(num_tokens);
    } else if (sscanf(line, "decode %d %d %d", &streams, &length, &num_tokens) == 3) {
      seconds = generate_seconds(streams, length, num_tokens);
    } else {
      fail("a line must be `prefill TOKENS` or `decode STREAMS CONTEXT TOKENS`");
    }
    const int tokens = streams * num_tokens;
    fprintf(out, "{\"case\": \"%s\", \"tokens\": %d, \"seconds\": %.9f, \"tokens_per_s\": %.6f}\n",
            line, tokens, seconds, tokens / seconds);
    fflush(out);
  }
  return 0;
}
