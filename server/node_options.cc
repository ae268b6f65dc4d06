#include "server/node_options.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

WeightDtype WeightDtypeOf(const std::string& name) {
  if (name == "float32" || name == "float16") return WeightDtype::kF32;
  if (name == "int8") return WeightDtype::kI8;
  if (name == "int5") return WeightDtype::kI5;
  if (name == "int4") return WeightDtype::kI4;
  return name == "bfloat16" ? WeightDtype::kBF16 : WeightDtype::kAuto;
}

ActivationDtype ActivationDtypeOf(const std::string& name) {
  if (name == "int8") return ActivationDtype::kI8;
  return name == "bfloat16" ? ActivationDtype::kBF16 : ActivationDtype::kAuto;
}

KvDtype KvDtypeOf(const std::string& name) {
  if (name == "float32") return KvDtype::kF32;
  if (name == "int8") return KvDtype::kI8;
  return name == "bfloat16" ? KvDtype::kBF16 : KvDtype::kAuto;
}

AdapterDtype AdapterDtypeOf(const std::string& name) {
  if (name == "float32") return AdapterDtype::kF32;
  if (name == "int8") return AdapterDtype::kI8;
  return name == "bfloat16" ? AdapterDtype::kBF16 : AdapterDtype::kAuto;
}

absl::Status CheckSecurity(const v1::Config& config) {
  const v1::SecurityConfig& security = config.security();
  const v1::TlsConfig& tls = security.tls();
  if (tls.has_certificate() != tls.has_key()) {
    return absl::InvalidArgumentError(
        "TLS needs both security.tls.certificate (--tls-cert) and security.tls.key (--tls-key): "
        "give the other too, or leave both out");
  }
  if (tls.has_client_ca() && !tls.has_certificate()) {
    return absl::InvalidArgumentError(
        "security.tls.client_ca (--tls-client-ca) has no effect without TLS: give --tls-cert and "
        "--tls-key too, or leave it out");
  }
  if (tls.has_client_crl() && !tls.has_client_ca()) {
    return absl::InvalidArgumentError(
        "security.tls.client_crl has no effect without security.tls.client_ca: set that too, or "
        "leave it out");
  }
  ASSIGN_OR_RETURN(const Identities identities, IdentitiesOf(security));
  if (identities.has_certificates() && !tls.has_client_ca()) {
    return absl::InvalidArgumentError(
        "an identity has a certificate_san, but without security.tls.client_ca (--tls-client-ca) "
        "no client can prove it: name the file of the authority that signs the certificates");
  }
  return absl::OkStatus();
}

absl::Status CheckTenants(const v1::Config& config) {
  absl::flat_hash_set<std::string> names;
  for (const v1::TenantConfig& tenant : config.tenants()) {
    if (!tenant.has_name()) {
      return absl::InvalidArgumentError(
          "an entry of tenants has no name; give the tenant's name in security.identities");
    }
    if (!names.insert(tenant.name()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tenants has '", tenant.name(), "' twice; remove one of them"));
    }
  }
  if (names.empty() || config.engine().queue_policy() != "early_abort") return absl::OkStatus();
  return absl::InvalidArgumentError(
      "tenants has no effect with engine.queue_policy early_abort: leave one of them out");
}

}  // namespace

AssembleOptions OptionsOf(const v1::Config& config) {
  const v1::EngineConfig& engine = config.engine();
  AssembleOptions options;
  for (const v1::ModelConfig& model : config.models()) {
    options.models.push_back({model.name(), model.path()});
  }
  if (engine.device() == "ref") options.backend = "ref";
  options.num_threads = engine.threads();
  options.weight_dtype = WeightDtypeOf(engine.dtype());
  options.activations = ActivationDtypeOf(engine.activations());
  options.kv_dtype = KvDtypeOf(engine.kv_cache_dtype());
  options.kv_cache_bytes = static_cast<int64_t>(engine.kv_cache_bytes());
  options.max_model_len = engine.max_model_len();
  options.pack_cache.dir = engine.pack_cache();
  if (engine.has_pack_cache_bytes()) {
    options.pack_cache.max_bytes = static_cast<int64_t>(engine.pack_cache_bytes());
  }
  EngineOptions& e = options.engine;
  if (engine.has_max_num_batched_tokens())
    e.max_num_batched_tokens = engine.max_num_batched_tokens();
  // Each running stream needs one token in each step, so max_num_seqs must not exceed
  // max_num_batched_tokens. If only one of the two options is configured, the default of the other
  // option is changed to satisfy this bound.
  e.max_num_seqs = std::min(e.max_num_seqs, e.max_num_batched_tokens);
  if (engine.has_max_num_seqs()) e.max_num_seqs = engine.max_num_seqs();
  if (!engine.has_max_num_batched_tokens()) {
    e.max_num_batched_tokens = std::max(e.max_num_batched_tokens, e.max_num_seqs);
  }
  if (engine.has_max_queue()) e.max_queue = engine.max_queue();
  if (engine.has_max_queue_delay_ms()) e.max_queue_delay_us = engine.max_queue_delay_ms() * 1000;
  if (engine.has_target_step_ms()) e.target_step_us = engine.target_step_ms() * 1000;
  if (engine.has_target_step_ratio()) e.target_step_ratio = engine.target_step_ratio();
  if (engine.has_ageing_ms()) e.ageing_us = engine.ageing_ms() * 1000;
  if (engine.queue_policy() == "early_abort") e.queue_policy = QueuePolicyKind::kEarlyAbort;
  if (engine.has_early_abort_ms()) e.early_abort_us = engine.early_abort_ms() * 1000;
  if (config.adapters().has_host_bytes()) {
    e.adapter_host_bytes = static_cast<int64_t>(config.adapters().host_bytes());
  }
  if (config.adapters().has_load_timeout_seconds()) {
    e.max_adapter_read_us = config.adapters().load_timeout_seconds() * 1'000'000;
  }
  options.adapter_dtype = AdapterDtypeOf(config.adapters().dtype());
  e.deployment_secret = engine.deployment_secret();
  for (const v1::TenantConfig& tenant : config.tenants()) {
    TenantLimits& limits = e.tenants[tenant.name()];
    if (tenant.has_weight()) limits.weight = tenant.weight();
    limits.max_running = tenant.max_running();
  }
  return options;
}

DoorOptions DoorOptionsOf(const v1::LimitsConfig& limits) {
  DoorOptions door;
  door.max_connections = limits.max_connections();
  door.max_connections_per_address = limits.max_connections_per_address();
  GuardLimits& guard = door.guard;
  if (limits.has_max_streams_per_connection()) {
    guard.max_streams = limits.max_streams_per_connection();
  }
  if (limits.has_max_header_block_bytes()) {
    guard.max_header_block_bytes = static_cast<int64_t>(limits.max_header_block_bytes());
  }
  if (limits.has_max_resets_per_second()) {
    guard.max_resets_per_second = limits.max_resets_per_second();
  }
  if (limits.has_max_incoming_bytes()) {
    door.max_incoming_bytes = static_cast<int64_t>(limits.max_incoming_bytes());
  }
  return door;
}

absl::StatusOr<Identities> IdentitiesOf(const v1::SecurityConfig& security) {
  std::vector<IdentityRule> rules;
  for (const v1::IdentityConfig& identity : security.identities()) {
    rules.push_back(
        {identity.tenant(), identity.admin(), identity.token_sha256(), identity.certificate_san()});
  }
  return Identities::Make(rules);
}

TlsFiles TlsFilesOf(const v1::SecurityConfig& security) {
  const v1::TlsConfig& tls = security.tls();
  TlsFiles files;
  files.certificate = tls.certificate();
  files.key = tls.key();
  files.client_ca = tls.client_ca();
  files.client_crl = tls.client_crl();
  for (const v1::IdentityConfig& identity : security.identities()) {
    files.certificate_is_optional |= identity.has_token_sha256();
  }
  return files;
}

absl::Status CheckOptions(const v1::Config& config) {
  RETURN_IF_ERROR(CheckSecurity(config));
  RETURN_IF_ERROR(CheckTenants(config));
  const v1::EngineConfig& engine = config.engine();
  const auto refused = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (engine.device() == "ref" && engine.threads() > 1) {
    return refused("engine.threads is ", engine.threads(),
                   ", but engine.device ref computes on one thread: leave engine.threads out");
  }
  if (engine.has_pack_cache_bytes() && engine.pack_cache().empty()) {
    return refused(
        "engine.pack_cache_bytes has no effect without engine.pack_cache (--pack-cache): name a "
        "folder there, or leave it out");
  }
  const bool is_early_abort = engine.queue_policy() == "early_abort";
  if (engine.has_early_abort_ms() && !is_early_abort) {
    return refused(
        "engine.early_abort_ms has no effect without engine.queue_policy (--queue-policy) "
        "early_abort: set that too, or leave it out");
  }
  for (const auto& [is_given, key] :
       {std::pair(engine.has_ageing_ms(), "ageing_ms"),
        std::pair(engine.has_max_queue_delay_ms(), "max_queue_delay_ms")}) {
    if (is_given && is_early_abort) {
      return refused("engine.", key,
                     " has no effect with engine.queue_policy early_abort: leave one of them out");
    }
  }
  const EngineOptions options = OptionsOf(config).engine;
  if (options.max_num_batched_tokens >= options.max_num_seqs) return absl::OkStatus();
  return refused("engine.max_num_batched_tokens (", options.max_num_batched_tokens,
                 ") must be at least engine.max_num_seqs (", options.max_num_seqs,
                 "): every running stream needs a token in every step");
}

std::string ListenAddressOf(const v1::ServerConfig& server) {
  return server.has_listen() ? server.listen() : "127.0.0.1:50051";
}

std::string MetricsAddressOf(const v1::ServerConfig& server) {
  return server.has_metrics_listen() ? server.metrics_listen() : "127.0.0.1:9464";
}

AdapterPath ReadAdapterPath(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals > text.find('/')) return {"", text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

std::vector<std::string> AdapterRootsOf(const v1::AdaptersConfig& config) {
  std::vector<std::string> roots = {config.roots().begin(), config.roots().end()};
  if (!roots.empty()) return roots;
  for (const std::string& text : config.paths()) roots.push_back(ReadAdapterPath(text).dir);
  return roots;
}

int ResponderThreadsOf(const v1::ServerConfig& server) {
  if (server.has_responder_threads()) return server.responder_threads();
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 2, 4);
}

}  // namespace tessera
