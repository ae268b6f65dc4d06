// The largest values that a request may carry. GetCapabilities reports them and validation enforces
// them.
#pragma once

#include <cstdint>

namespace tessera {

// Bytes of one gRPC message.
inline constexpr int64_t kMaxMessageBytes = int64_t{64} << 20;
// Bytes of one request to the Control service.
inline constexpr int64_t kMaxControlBytes = 1 << 20;
inline constexpr int32_t kMaxN = 128;
inline constexpr int32_t kMaxLogprobs = 100;
// Prompt tokens x (1 + prompt_logprobs). The scores that wait for the client count as bytes of its
// stream, which is paused above limits.stream_buffer_bytes, also while its prompt is computed.
inline constexpr int64_t kMaxPromptScores = 1'000'000;
inline constexpr int32_t kMaxStopStrings = 64;
inline constexpr int32_t kMaxStopStringBytes = 1024;
inline constexpr int32_t kMaxStopTokenIds = 1024;
inline constexpr int32_t kMaxLogitBias = 1024;
inline constexpr uint32_t kMaxBlendRank = 4096;
inline constexpr float kMaxLogitBiasValue = 10'000.0f;
inline constexpr int32_t kMaxEmbedInputs = 256;
inline constexpr int64_t kMaxDetokenizeIds = 4'194'304;
inline constexpr int64_t kMaxDetokenizedBytes = int64_t{32} << 20;
inline constexpr int32_t kMaxChatMessages = 16'384;
inline constexpr int32_t kMaxParts = 16'384;
inline constexpr int32_t kMaxRequestIdBytes = 128;
// Bytes of a cache salt or a document id.
inline constexpr int32_t kMaxNameBytes = 256;
inline constexpr int64_t kMaxTimeLimitMs = int64_t{1000} * 86'400 * 365;

}  // namespace tessera
