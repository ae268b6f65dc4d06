#include "server/write_buffer.h"

#include <utility>

#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

// Clients take messages of 4 MiB by default.
constexpr int64_t kMaxMergedBytes = 1 << 20;
constexpr int64_t kMessageOverhead = 64;

int64_t ScoreBytes(const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& scores) {
  int64_t bytes = 0;
  for (const v1::TokenLogprob& score : scores) bytes += 16 + 12 * score.top_size();
  return bytes;
}

int64_t ApproximateBytes(const v1::GenerateResponse& message) {
  int64_t bytes = kMessageOverhead + static_cast<int64_t>(message.request_id().size());
  if (message.has_output()) {
    bytes += static_cast<int64_t>(message.output().text().size()) +
             4 * message.output().token_ids_size() + ScoreBytes(message.output().logprobs());
  }
  if (message.has_prompt()) bytes += ScoreBytes(message.prompt().logprobs());
  return bytes;
}

void Merge(v1::Output* into, v1::Output* from) {
  into->mutable_text()->append(from->text());
  into->mutable_token_ids()->MergeFrom(from->token_ids());
  for (v1::TokenLogprob& score : *from->mutable_logprobs()) {
    *into->add_logprobs() = std::move(score);
  }
}

}  // namespace

struct WriteBuffer::Entry {
  v1::GenerateResponse message;
  int64_t bytes = 0;
};

WriteBuffer::WriteBuffer(int32_t num_indices) : last_output_(static_cast<size_t>(num_indices)) {}

WriteBuffer::~WriteBuffer() = default;

void WriteBuffer::Add(v1::GenerateResponse message) {
  Entry*& last = last_output_[static_cast<size_t>(message.index())];
  const int64_t bytes = ApproximateBytes(message);
  if (message.has_output() && last != nullptr && last->bytes + bytes <= kMaxMergedBytes) {
    Merge(last->message.mutable_output(), message.mutable_output());
    last->bytes += bytes - kMessageOverhead;
    bytes_ += bytes - kMessageOverhead;
    return;
  }
  bytes_ += bytes;
  entries_.push_back(std::make_unique<Entry>(Entry{std::move(message), bytes}));
  last = entries_.back()->message.has_output() ? entries_.back().get() : nullptr;
}

v1::GenerateResponse WriteBuffer::Take() {
  const std::unique_ptr<Entry> entry = std::move(entries_.front());
  entries_.pop_front();
  Entry*& last = last_output_[static_cast<size_t>(entry->message.index())];
  if (last == entry.get()) last = nullptr;
  bytes_ -= entry->bytes;
  return std::move(entry->message);
}

}  // namespace tessera
