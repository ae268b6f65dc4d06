#include "server/grpc/control_answers.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <set>
#include <string>

#include "server/call/limits.h"
#include "server/call/served_model.h"
#include "server/call/serving.h"
#include "server/text/template/chat_templates.h"
#include "tessera/v1/control.pb.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using google::protobuf::Descriptor;

void AddFields(const Descriptor& descriptor, std::set<std::string>* names) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *descriptor.field(i);
    if (descriptor.options().map_entry() || !names->insert(field.full_name()).second) continue;
    if (field.message_type() != nullptr) AddFields(*field.message_type(), names);
  }
}

}  // namespace

void FillCapabilities(const ServingContext& context, v1::GetCapabilitiesResponse* response) {
  response->set_version(context.version);
  response->set_device(context.device);
  std::set<std::string> names;
  for (const Descriptor* request :
       {v1::GenerateRequest::descriptor(), v1::ChatRequest::descriptor(),
        v1::EmbedRequest::descriptor(), v1::TokenizeRequest::descriptor(),
        v1::DetokenizeRequest::descriptor(), v1::GetCapabilitiesRequest::descriptor(),
        v1::ListModelsRequest::descriptor(), v1::GetLoadRequest::descriptor(),
        v1::WatchLoadRequest::descriptor(), v1::CancelRequest::descriptor(),
        v1::DrainRequest::descriptor(), v1::RegisterAdaptersRequest::descriptor(),
        v1::UnregisterAdapterRequest::descriptor(), v1::LoadAdapterRequest::descriptor(),
        v1::UnloadAdapterRequest::descriptor(), v1::PinAdapterRequest::descriptor(),
        v1::ListAdaptersRequest::descriptor(), v1::WatchAdaptersRequest::descriptor()}) {
    AddFields(*request, &names);
  }
  for (const std::string& name : names) response->add_request_fields(name);
  v1::RequestLimits* limits = response->mutable_limits();
  limits->set_max_message_bytes(kMaxMessageBytes);
  limits->set_max_prompt_bytes(context.max_prompt_bytes);
  limits->set_max_n(kMaxN);
  limits->set_max_logprobs(kMaxLogprobs);
  limits->set_max_stop_strings(kMaxStopStrings);
  limits->set_max_stop_string_bytes(kMaxStopStringBytes);
  limits->set_max_stop_token_ids(kMaxStopTokenIds);
  limits->set_max_logit_bias(kMaxLogitBias);
  for (const ServedModel& model : context.models->models()) {
    limits->set_max_embed_inputs(std::max(limits->max_embed_inputs(), model.max_embed_inputs));
  }
  limits->set_max_chat_messages(kMaxChatMessages);
  for (const char* feature :
       {"prefix_cache", "chunked_prefill", "chat_templates", "embeddings", "lora"}) {
    response->add_features(feature);
  }
}

void FillModels(const ServingContext& context, v1::ListModelsResponse* response) {
  for (const ServedModel& model : context.models->models()) {
    v1::ModelInfo* info = response->add_models();
    info->set_name(model.name);
    info->set_is_default(&model == &context.models->models().front());
    info->set_family(model.family);
    info->set_revision(model.revision);
    info->set_vocab_size(model.vocab_size);
    info->set_max_model_len(model.max_model_len);
    info->set_trained_context(model.trained_context);
    info->set_num_parameters(model.num_parameters);
    info->set_dtype(model.dtype);
    info->set_activations(model.activations);
    info->set_kv_cache_dtype(model.kv_dtype);
    info->set_hidden_size(model.hidden);
    info->set_has_chat_template(model.chat_templates->CanRender());
  }
}

void FillLoad(const ServingContext& context, v1::GetLoadResponse* response) {
  const LoadSnapshot load = context.load();
  response->set_running(load.running);
  response->set_waiting(load.waiting);
  response->set_paused(load.paused);
  response->set_queue_delay_us(load.queue_delay_us);
  response->set_pool_bytes(load.pool_bytes);
  response->set_free_bytes(load.free_bytes);
  response->set_cached_bytes(load.cached_bytes);
  response->set_kv_bytes(load.kv_bytes);
  response->set_adapter_bytes(load.adapter_bytes);
  response->set_staging_bytes(load.staging_bytes);
  if (load.pool_bytes > 0) {
    const int64_t used = load.kv_bytes + load.adapter_bytes + load.staging_bytes;
    response->set_kv_cache_usage(static_cast<double>(used) / static_cast<double>(load.pool_bytes));
  }
  response->set_generated_tokens(load.generated_tokens);
  response->set_prompt_tokens(load.prompt_tokens);
  response->set_draining(context.draining.load(std::memory_order_relaxed));
  response->set_calls(context.live.num_open());
}

}  // namespace tessera
