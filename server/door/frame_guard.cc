#include "server/door/frame_guard.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr absl::string_view kPreface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

constexpr double kStreamsPerSecond = 5000;
constexpr double kStreamBurst = 10'000;
constexpr double kPingsPerSecond = 10;
constexpr double kPingBurst = 200;
constexpr double kSettingsPerSecond = 5;
constexpr double kSettingsBurst = 100;
constexpr double kOthersPerSecond = 2000;
constexpr double kOtherBurst = 20'000;
constexpr double kAbandonsPerSecond = 1;
constexpr double kAbandonBurst = 8;
// Clients measure the bandwidth with a ping for a frame of data, and acknowledge the data of a
// frame with two WINDOW_UPDATE frames. So each frame of the server permits frames of the client.
constexpr double kPingsPerServerFrame = 1;
constexpr double kOthersPerServerFrame = 4;

constexpr uint32_t kPingBytes = 8;
constexpr uint32_t kMaxSettingsBytes = 600;   // 100 settings
constexpr uint32_t kMaxOtherBytes = 1 << 14;  // HTTP/2's smallest allowed largest frame
constexpr int64_t kFrameCost = 41;            // bytes that gRPC keeps for a frame, besides its data

constexpr uint32_t kNoError = 0;
constexpr uint32_t kEnhanceYourCalm = 11;

void AppendU32(uint32_t value, std::string* out) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(value >> shift & 0xff));
  }
}

}  // namespace

FrameGuard::FrameGuard(const GuardLimits& limits, int64_t now_us)
    : limits_(limits),
      extra_incoming_bytes_(
          std::max<int64_t>(0, limits.max_streams * kStreamBytes - kMaxOtherIncomingBytes)),
      begin_us_(now_us),
      streams_(kStreamsPerSecond, kStreamBurst, now_us),
      resets_(limits.max_resets_per_second,
              std::max(limits.max_streams, 2 * limits.max_resets_per_second), now_us),
      pings_(kPingsPerSecond, kPingBurst, now_us),
      settings_(kSettingsPerSecond, kSettingsBurst, now_us),
      others_(kOthersPerSecond, kOtherBurst, now_us),
      abandons_(kAbandonsPerSecond, kAbandonBurst, now_us) {
  static_assert(kPreface.size() == kPrefaceBytes);
}

bool FrameGuard::TakePreface(absl::string_view* bytes) {
  const size_t taken = std::min(kPrefaceBytes - num_preface_bytes_, bytes->size());
  if (kPreface.substr(num_preface_bytes_, taken) != bytes->substr(0, taken)) return false;
  num_preface_bytes_ += taken;
  bytes->remove_prefix(taken);
  return true;
}

CloseReason FrameGuard::FromClient(absl::string_view bytes, int64_t now_us) {
  if (!TakePreface(&bytes)) return CloseReason::kProtocol;
  if (!has_preface()) return CloseReason::kNone;
  while (true) {
    const FrameReader::Event event = client_.Next(&bytes);
    if (event == FrameReader::Event::kNeedBytes) return CloseReason::kNone;
    if (event == FrameReader::Event::kEnd) {
      OnEnd(client_.header());
      continue;
    }
    const CloseReason reason = OnHeader(client_.header(), now_us);
    if (reason != CloseReason::kNone) return reason;
  }
}

CloseReason FrameGuard::OnHeader(const FrameHeader& frame, int64_t now_us) {
  const bool continues = frame.type == FrameType::kContinuation && frame.stream == block_stream_;
  if (block_stream_ != 0 && !continues) return CloseReason::kProtocol;
  switch (frame.type) {
    case FrameType::kData:
      return OnData(frame, now_us);
    case FrameType::kHeaders:
      return OnHeaders(frame, now_us);
    case FrameType::kContinuation:
      return block_stream_ == 0 ? CloseReason::kProtocol : GrowBlock(frame);
    case FrameType::kReset:
      return OnReset(frame, now_us);
    case FrameType::kSettings:
      return OnSettings(frame, now_us);
    case FrameType::kPing:
      return OnPing(frame, now_us);
    default:
      return frame.length > kMaxOtherBytes ? CloseReason::kProtocol : OnOther(now_us);
  }
}

CloseReason FrameGuard::OnData(const FrameHeader& frame, int64_t now_us) {
  if (frame.stream == 0) return CloseReason::kProtocol;
  if (incoming_.find(frame.stream) == incoming_.end() || frame.length == 0) {
    const CloseReason reason = OnOther(now_us);
    if (reason != CloseReason::kNone) return reason;
  }
  return AddIncoming(frame.stream, int64_t{frame.length} + kFrameCost);
}

CloseReason FrameGuard::OnHeaders(const FrameHeader& frame, int64_t now_us) {
  if (frame.stream % 2 == 0) return CloseReason::kProtocol;  // includes stream 0
  block_stream_ = frame.stream;
  block_bytes_ = 0;
  block_begin_client_us_ = ClientUs(now_us);
  block_ends_stream_ = frame.Has(kFlagEndStream);
  const CloseReason reason =
      frame.stream > last_stream_ ? Open(frame.stream, now_us) : OnOther(now_us);
  return reason != CloseReason::kNone ? reason : GrowBlock(frame);
}

CloseReason FrameGuard::GrowBlock(const FrameHeader& frame) {
  block_bytes_ += int64_t{frame.length} + static_cast<int64_t>(kFrameHeaderBytes);
  return block_bytes_ > limits_.max_header_block_bytes ? CloseReason::kHeaderBlock
                                                       : CloseReason::kNone;
}

CloseReason FrameGuard::OnReset(const FrameHeader& frame, int64_t now_us) {
  const int64_t before = num_unanswered_;
  Close(frame.stream);
  if (num_unanswered_ < before) {
    ++num_abandoned_;
    abandons_.Force(1, now_us);
  }
  return resets_.Take(now_us) ? CloseReason::kNone : CloseReason::kResets;
}

CloseReason FrameGuard::OnSettings(const FrameHeader& frame, int64_t now_us) {
  if (frame.length > kMaxSettingsBytes) return CloseReason::kSettings;
  if (frame.Has(kFlagAck)) return OnOther(now_us);
  return settings_.Take(now_us) ? CloseReason::kNone : CloseReason::kSettings;
}

CloseReason FrameGuard::OnPing(const FrameHeader& frame, int64_t now_us) {
  if (frame.length != kPingBytes) return CloseReason::kProtocol;
  if (frame.Has(kFlagAck)) return OnOther(now_us);
  return pings_.Take(now_us) ? CloseReason::kNone : CloseReason::kPings;
}

CloseReason FrameGuard::OnOther(int64_t now_us) {
  return others_.Take(now_us) ? CloseReason::kNone : CloseReason::kFrames;
}

CloseReason FrameGuard::Open(uint32_t stream, int64_t now_us) {
  last_stream_ = stream;
  if (open_.size() >= static_cast<size_t>(limits_.max_streams)) return CloseReason::kStreams;
  if (!streams_.Take(now_us)) return CloseReason::kStreamRate;
  open_.emplace(stream, false);
  ++num_unanswered_;
  incoming_[stream] = {kStreamBytes, now_us, ClientUs(now_us)};
  incoming_bytes_ += kStreamBytes;
  return AddIncoming(stream, 0);
}

CloseReason FrameGuard::AddIncoming(uint32_t stream, int64_t bytes) {
  const auto found = incoming_.find(stream);
  if (found == incoming_.end()) return CloseReason::kNone;
  found->second.bytes += bytes;
  incoming_bytes_ += bytes;
  if (incoming_bytes_ > kMaxIncomingBytes + extra_incoming_bytes_) {
    return CloseReason::kIncomingBytes;
  }
  const int64_t max_others = kMaxOtherIncomingBytes + extra_incoming_bytes_;
  if (incoming_bytes_ <= max_others) return CloseReason::kNone;
  // One large message is the usual case: the others then need no look.
  if (incoming_bytes_ - found->second.bytes <= max_others) return CloseReason::kNone;
  int64_t largest = 0;
  for (const auto& [unused, request] : incoming_) largest = std::max(largest, request.bytes);
  return incoming_bytes_ - largest > max_others ? CloseReason::kIncomingBytes : CloseReason::kNone;
}

void FrameGuard::OnEnd(const FrameHeader& frame) {
  has_frame_ = true;
  if (frame.type == FrameType::kData && frame.Has(kFlagEndStream)) Complete(frame.stream);
  const bool in_block = frame.type == FrameType::kHeaders || frame.type == FrameType::kContinuation;
  if (!in_block || !frame.Has(kFlagEndHeaders)) return;
  if (block_ends_stream_) Complete(block_stream_);
  block_stream_ = 0;
}

void FrameGuard::Complete(uint32_t stream) {
  const auto found = incoming_.find(stream);
  if (found == incoming_.end()) return;
  incoming_bytes_ -= found->second.bytes;
  incoming_.erase(found);
}

void FrameGuard::Close(uint32_t stream) {
  Complete(stream);
  const auto found = open_.find(stream);
  if (found == open_.end()) return;
  if (!found->second) --num_unanswered_;
  open_.erase(found);
}

void FrameGuard::Answer(uint32_t stream) {
  pings_.Add(kPingsPerServerFrame);
  others_.Add(kOthersPerServerFrame);
  const auto found = open_.find(stream);
  if (found == open_.end() || found->second) return;
  found->second = true;
  --num_unanswered_;
}

void FrameGuard::FromServer(absl::string_view bytes) {
  while (true) {
    const FrameReader::Event event = server_.Next(&bytes);
    if (event == FrameReader::Event::kNeedBytes) return;
    if (event == FrameReader::Event::kEnd) continue;
    const FrameHeader& frame = server_.header();
    const bool answers = frame.type == FrameType::kData || frame.type == FrameType::kHeaders;
    if (answers) Answer(frame.stream);
    if (frame.type == FrameType::kReset || (answers && frame.Has(kFlagEndStream))) {
      Close(frame.stream);
    }
  }
}

CloseReason FrameGuard::CheckTime(int64_t now_us) const {
  const int64_t client_us = ClientUs(now_us);
  if (!has_frame_ && client_us - begin_us_ > kPrefaceTimeUs) return CloseReason::kPrefaceTime;
  if (last_stream_ == 0 && client_us - begin_us_ > kFirstRequestTimeUs) {
    return CloseReason::kFirstRequestTime;
  }
  if (block_stream_ != 0 && client_us - block_begin_client_us_ > kHeaderTimeUs) {
    return CloseReason::kHeaderTime;
  }
  const auto oldest = std::find_if(incoming_.begin(), incoming_.end(), [this](const auto& entry) {
    const auto found = open_.find(entry.first);
    return found != open_.end() && !found->second;
  });
  if (oldest == incoming_.end()) return CloseReason::kNone;
  const bool late = client_us - oldest->second.opened_client_us > kRequestTimeUs ||
                    now_us - oldest->second.opened_us > kLongestRequestTimeUs;
  return late ? CloseReason::kRequestTime : CloseReason::kNone;
}

std::string FrameGuard::GoAway(CloseReason reason) const {
  if (!has_preface() || !server_.at_boundary()) return "";
  const bool is_calm = reason == CloseReason::kIdle || reason == CloseReason::kFirstRequestTime;
  const std::string text = CloseReasonText(reason);
  std::string frame;
  const uint32_t length = static_cast<uint32_t>(8 + text.size());
  AppendU32(length << 8 | static_cast<uint32_t>(FrameType::kGoAway), &frame);
  frame.push_back(0);
  AppendU32(0, &frame);
  AppendU32(last_stream_, &frame);
  AppendU32(is_calm ? kNoError : kEnhanceYourCalm, &frame);
  return absl::StrCat(frame, text);
}

}  // namespace tessera
