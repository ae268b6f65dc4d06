// What Control answers, without gRPC: capabilities, models and load as messages. Any thread.
#pragma once

namespace tessera {

namespace v1 {
class GetCapabilitiesResponse;
class GetLoadResponse;
class ListModelsResponse;
}  // namespace v1

struct ServingContext;

void FillCapabilities(const ServingContext& context, v1::GetCapabilitiesResponse* response);
void FillModels(const ServingContext& context, v1::ListModelsResponse* response);
void FillLoad(const ServingContext& context, v1::GetLoadResponse* response);

}  // namespace tessera
