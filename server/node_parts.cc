#include "server/node_parts.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/thread_limit.h"
#include "server/call/serving.h"
#include "server/config/config.h"
#include "server/config/net.h"
#include "server/grpc/adapter_control.h"
#include "server/model_loader.h"
#include "server/node_options.h"
#include "tessera/v1/config.pb.h"
#include "tessera/v1/control.pb.h"

namespace tessera {
namespace {

// Threads of a node besides the compute threads and the responders: the engine, the rank, loaders,
// preparers, the watch of adapter files, the HTTP server, the door and the check of its port. gRPC
// has up to a few for each processor.
constexpr int kOtherThreads = 24;
constexpr int kGrpcThreadsPerProcessor = 3;

absl::Status CheckAddress(const std::string& flag, const std::string& text) {
  const absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (!address.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", address.status().message()));
  }
  return CheckHost(flag, *address);
}

absl::Status CheckAddresses(const v1::Config& config) {
  const std::string listen = ListenAddressOf(config.server());
  RETURN_IF_ERROR(CheckAddress("--listen", listen));
  RETURN_IF_ERROR(CheckAddress("--metrics-listen", MetricsAddressOf(config.server())));
  if (IsLoopback(*ParseHostPort(listen))) return absl::OkStatus();
  const v1::SecurityConfig& security = config.security();
  if (!security.tls().has_certificate()) {
    if (!security.insecure()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--listen ", listen,
          ": other machines can reach this address, and without TLS anyone on "
          "the path can read prompts, answers and tokens; give --tls-cert and --tls-key, listen on "
          "127.0.0.1, or give --insecure if the network is trusted"));
    }
    TLOG_WARN(
        "--listen {}: other machines can reach this address, and connections are not encrypted: "
        "anyone on the path can read prompts, answers and tokens",
        listen);
  }
  if (security.identities().empty() && !security.tls().has_client_ca()) {
    TLOG_WARN(
        "--listen {}: anyone who reaches this address can use the models; configure "
        "security.identities, or let only trusted hosts connect",
        listen);
  }
  return absl::OkStatus();
}

// Registers the adapters of `adapters.paths`.
absl::Status RegisterAtStart(const v1::AdaptersConfig& config, NodeParts* parts) {
  if (config.paths().empty()) return absl::OkStatus();
  v1::RegisterAdaptersRequest request;
  for (const std::string& text : config.paths()) {
    const AdapterPath path = ReadAdapterPath(text);
    v1::AdapterSource* const source = request.add_adapters();
    source->set_model(path.model);
    source->set_path(path.dir);
  }
  ServingContext context;
  context.models = parts->models.get();
  context.adapters = parts->device.adapters.get();
  std::vector<absl::Status> skipped;
  ASSIGN_OR_RETURN(const int64_t registered,
                   RegisterLoadable(context, /*roots=*/{}, request, &skipped));
  TLOG_INFO("{} adapters registered", registered);
  parts->skipped_adapters = DescribeSkipped(skipped);
  return absl::OkStatus();
}

int ThreadsOf(const v1::Config& config, const MemoryPlan& plan) {
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  return plan.num_threads + ResponderThreadsOf(config.server()) + kOtherThreads +
         kGrpcThreadsPerProcessor * processors;
}

}  // namespace

std::string DescribePlan(const AssembleOptions& options, const MemoryPlan& plan) {
  std::string text;
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const MemoryPlan::PerModel& m = plan.models[i];
    absl::StrAppend(&text, "model ", options.models[i].name, ": ", m.spec.family, ", weights ",
                    DTypeName(m.weight_dtype), " ", FormatSize(m.weight_bytes), ", activations ",
                    DTypeName(m.activations), ", KV ", DTypeName(m.kv_dtype), " in pages of ",
                    m.layout.page_tokens(), " tokens, buffers ", FormatSize(m.arena_bytes),
                    ", max-model-len ", m.max_model_len, "\n");
    if (m.spec.quantization.method != QuantMethod::kNone) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": layers are taken as ",
                      QuantMethodName(m.spec.quantization.method), " quantised them\n");
    } else if (m.spec.stored_dtype == DType::kF16) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": float16 weights are computed as ",
                      DTypeName(m.weight_dtype), "\n");
    }
    if (m.max_model_len < m.spec.max_positions && options.max_model_len == 0) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": its context of ",
                      m.spec.max_positions,
                      " tokens is cut to what the KV cache holds; raise --kv-cache-bytes\n");
    } else if (m.spec.max_positions < options.max_model_len) {
      absl::StrAppend(&text, "model ", options.models[i].name, ": its context of ",
                      m.spec.max_positions, " tokens is shorter than --max-model-len\n");
    }
  }
  absl::StrAppend(&text, "kv-cache-bytes ", FormatSize(plan.pool_bytes()), " (", plan.num_slabs,
                  " slabs), max-num-seqs ", options.engine.max_num_seqs,
                  ", max-num-batched-tokens ", options.engine.max_num_batched_tokens,
                  ", max-queue ", options.engine.max_queue, ", threads ", plan.num_threads,
                  ", working memory ", FormatSize(plan.work.total()), ", total ",
                  FormatSize(plan.total_bytes()), " of ", FormatSize(plan.available_bytes),
                  " available (", plan.available_bound, ")");
  return text;
}

absl::StatusOr<NodeParts> PrepareNode(
    const v1::Config& config, const std::function<void(const std::string& stage)>& on_stage) {
  NodeParts parts;
  on_stage("planning the memory");
  RETURN_IF_ERROR(CheckOptions(config));
  parts.options = OptionsOf(config);
  RETURN_IF_ERROR(CheckAddresses(config));
  ASSIGN_OR_RETURN(parts.plan, PlanMemory(parts.options));
  RETURN_IF_ERROR(CheckThreads(ThreadsOf(config, parts.plan)));
  const TlsFiles files = TlsFilesOf(config.security());
  if (files.enabled()) {
    ASSIGN_OR_RETURN(parts.tls, TlsContext::Load(files));
  }
  ASSIGN_OR_RETURN(Identities identities, IdentitiesOf(config.security()));
  parts.identities = std::make_shared<const Identities>(std::move(identities));

  std::vector<ServedModel> models;
  for (size_t i = 0; i < parts.plan.models.size(); ++i) {
    on_stage(absl::StrCat("loading ", parts.options.models[i].name, ": tokenizer"));
    ASSIGN_OR_RETURN(
        ServedModel model,
        LoadServedModel(parts.options.models[i], static_cast<int32_t>(i), parts.plan.models[i],
                        static_cast<int64_t>(config.limits().max_prompt_bytes())));
    if (config.limits().has_template_time_ms()) {
      model.template_time = absl::Milliseconds(config.limits().template_time_ms());
    }
    model.max_embed_inputs = std::min(model.max_embed_inputs, parts.options.engine.max_queue);
    models.push_back(std::move(model));
  }
  parts.models = std::make_unique<ModelRegistry>(std::move(models));
  ASSIGN_OR_RETURN(parts.device, PrepareDevice(parts.options, parts.plan));
  on_stage("registering adapters");
  RETURN_IF_ERROR(RegisterAtStart(config.adapters(), &parts));
  return parts;
}

}  // namespace tessera
