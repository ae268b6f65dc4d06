#include "server/config/config_rules.h"

#include <limits>

namespace tessera {
namespace {

constexpr int64_t kNoBound = std::numeric_limits<int64_t>::max();

constexpr ConfigRule kRules[] = {
    {"engine.device", 0, 0, "auto|ref|cpu|cuda", "cuda"},
    {"engine.threads", 1, 1024, nullptr, nullptr},
    {"engine.dtype", 0, 0, "auto|float32|bfloat16|float16|int8|int5|int4", nullptr},
    {"engine.activations", 0, 0, "auto|bfloat16|int8", nullptr},
    {"engine.kv_cache_dtype", 0, 0, "auto|float32|bfloat16|int8", nullptr},
    {"engine.kv_cache_bytes", 1 << 16, kNoBound, nullptr, nullptr},
    {"engine.pack_cache_bytes", 1 << 20, kNoBound, nullptr, nullptr},
    {"engine.max_num_seqs", 1, 65536, nullptr, nullptr},
    {"engine.max_num_batched_tokens", 1, 1 << 20, nullptr, nullptr},
    {"engine.max_model_len", 2, int64_t{1} << 31, nullptr, nullptr},
    {"engine.max_queue", 1, 10'000'000, nullptr, nullptr},
    {"engine.max_queue_delay_ms", 0, 86'400'000, nullptr, nullptr},
    {"engine.target_step_ms", 0, 60'000, nullptr, nullptr},
    {"engine.target_step_ratio", 1, 1000, nullptr, nullptr},
    {"engine.ageing_ms", 1, 3'600'000, nullptr, nullptr},
    {"engine.queue_policy", 0, 0, "priority|early_abort", nullptr},
    {"engine.early_abort_ms", 501, 3'600'000, nullptr, nullptr},
    {"server.drain_seconds", 0, 86'400, nullptr, nullptr},
    {"server.responder_threads", 1, 64, nullptr, nullptr},
    {"server.max_connection_age_seconds", 0, 2'147'483, nullptr, nullptr},
    {"server.keepalive_seconds", 1, 86'400, nullptr, nullptr},
    {"server.stale_seconds", 1, 86'400, nullptr, nullptr},
    {"server.control", 0, 0, "loopback|off", nullptr},
    {"limits.max_prompt_bytes", 1, 1 << 26, nullptr, nullptr},
    {"limits.stream_buffer_bytes", 1 << 10, 1 << 26, nullptr, nullptr},
    {"limits.template_time_ms", 1, 60'000, nullptr, nullptr},
    {"limits.max_connections", 1, 1'000'000, nullptr, nullptr},
    {"limits.max_connections_per_address", 1, 1'000'000, nullptr, nullptr},
    {"limits.max_streams_per_connection", 1, 1'000'000, nullptr, nullptr},
    {"limits.max_header_block_bytes", 1 << 10, 1 << 20, nullptr, nullptr},
    {"limits.max_resets_per_second", 1, 1'000'000, nullptr, nullptr},
    {"limits.max_incoming_bytes", 80 << 20, kNoBound, nullptr, nullptr},
    {"adapters.dtype", 0, 0, "auto|float32|bfloat16|int8", nullptr},
    {"adapters.host_bytes", 0, kNoBound, nullptr, nullptr},
    {"adapters.load_timeout_seconds", 1, 3600, nullptr, nullptr},
    {"tenants.weight", 1, 1000, nullptr, nullptr},
    {"tenants.max_running", 1, 65536, nullptr, nullptr},
    {"log.level", 0, 0, "trace|debug|info|warn|error", nullptr},
};

constexpr ConfigFlag kFlags[] = {
    {"--listen", "server.listen", "HOST:PORT",
     "address of the gRPC server (127.0.0.1:50051; port 0: a free port)"},
    {"--metrics-listen", "server.metrics_listen", "HOST:PORT",
     "address of /metrics, /healthz and /readyz (127.0.0.1:9464)"},
    {"--device", "engine.device", "auto|ref|cpu|cuda", "where models run (auto)"},
    {"--threads", "engine.threads", "N", "compute threads (one per physical core)"},
    {"--dtype", "engine.dtype", "TYPE",
     "format of weights: auto, float32, bfloat16, float16, int8, int5, int4 (auto: as stored)"},
    {"--activations", "engine.activations", "TYPE",
     "what quantised weights multiply: auto, bfloat16, int8 (auto: int8, but bfloat16 for a "
     "checkpoint that was quantised for 16-bit activations)"},
    {"--kv-cache-dtype", "engine.kv_cache_dtype", "TYPE",
     "format of the KV cache: auto, float32, bfloat16, int8 (auto: follows the weights)"},
    {"--adapters", "adapters.paths", "[MODEL=]DIR",
     "LoRA adapters to register: a PEFT folder, or a folder of PEFT folders; repeat it for more"},
    {"--adapter-dtype", "adapters.dtype", "TYPE",
     "format of adapters in the pool: auto, float32, bfloat16, int8 (auto: float32 if the weights "
     "are float32, else bfloat16)"},
    {"--kv-cache-bytes", "engine.kv_cache_bytes", "SIZE", "memory for KV pages, e.g. 2GiB"},
    {"--pack-cache", "engine.pack_cache", "DIR",
     "folder that keeps packed weights for the next start (none)"},
    {"--pack-cache-bytes", "engine.pack_cache_bytes", "SIZE",
     "largest size of the --pack-cache folder (32GiB)"},
    {"--max-num-seqs", "engine.max_num_seqs", "N", "sequences computed at once (256)"},
    {"--max-num-batched-tokens", "engine.max_num_batched_tokens", "N",
     "largest number of tokens in one step (512)"},
    {"--max-model-len", "engine.max_model_len", "N", "tokens of prompt and output together"},
    {"--max-queue", "engine.max_queue", "N", "sequences (a request's n) that may wait (1024)"},
    {"--queue-policy", "engine.queue_policy", "NAME",
     "order of the queue: priority, or early_abort as in S-LoRA (priority)"},
    {"--early-abort-ms", "engine.early_abort_ms", "N",
     "limit of the time to first token under early_abort, in ms (6000)"},
    {"--tls-cert", "security.tls.certificate", "FILE",
     "PEM certificate of the gRPC port; turns TLS on (no TLS)"},
    {"--tls-key", "security.tls.key", "FILE", "PEM private key of --tls-cert"},
    {"--tls-client-ca", "security.tls.client_ca", "FILE",
     "PEM authorities of clients' certificates; clients then need one (none)"},
    {"--insecure", "security.insecure", nullptr,
     "let other machines reach the gRPC port without TLS"},
    {"--log-level", "log.level", "LEVEL", "lowest level: trace, debug, info, warn, error (info)"},
    {"--drain-seconds", "server.drain_seconds", "N",
     "time that running calls have to finish after SIGTERM, in s (30)"},
};

}  // namespace

absl::Span<const ConfigRule> ConfigRules() { return kRules; }

const ConfigRule* FindConfigRule(absl::string_view path) {
  for (const ConfigRule& rule : kRules) {
    if (path == rule.path) return &rule;
  }
  return nullptr;
}

absl::Span<const ConfigFlag> ConfigFlags() { return kFlags; }

}  // namespace tessera
