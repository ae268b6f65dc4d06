// Fills the response messages of the Control service: capabilities, models and load. No gRPC types.
// Any thread.
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
