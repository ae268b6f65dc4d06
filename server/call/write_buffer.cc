#include "server/call/write_buffer.h"

#include <optional>
#include <utility>

#include "server/call/pending_scores.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

// gRPC clients accept messages of at most 4 MiB by default.
constexpr int64_t kMaxMessageContentBytes = 1 << 20;
constexpr int64_t kMessageOverhead = 64;

int64_t ApproximateBytes(const v1::GenerateResponse& message) {
  int64_t bytes = kMessageOverhead + static_cast<int64_t>(message.request_id().size());
  if (message.has_output()) {
    bytes += static_cast<int64_t>(message.output().text().size()) +
             4 * message.output().token_ids_size();
    for (const v1::TokenLogprob& score : message.output().logprobs()) bytes += ScoreBytes(score);
  }
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
  int64_t bytes = 0;  // approximate wire bytes of `message`, without `scores`
  std::optional<PendingScores> scores;
};

WriteBuffer::WriteBuffer(int32_t num_indices) : last_output_(static_cast<size_t>(num_indices)) {}

WriteBuffer::~WriteBuffer() = default;

void WriteBuffer::Add(v1::GenerateResponse message) {
  Entry*& last = last_output_[static_cast<size_t>(message.index())];
  const int64_t bytes = ApproximateBytes(message);
  if (message.has_output() && last != nullptr && last->bytes + bytes <= kMaxMessageContentBytes) {
    Merge(last->message.mutable_output(), message.mutable_output());
    last->bytes += bytes - kMessageOverhead;
    bytes_ += bytes - kMessageOverhead;
    return;
  }
  bytes_ += bytes;
  entries_.push_back(std::make_unique<Entry>(Entry{std::move(message), bytes, {}}));
  last = entries_.back()->message.has_output() ? entries_.back().get() : nullptr;
}

void WriteBuffer::AddPromptScores(v1::GenerateResponse message, std::vector<OutputToken> scores,
                                  const Tokenizer* tokenizer) {
  message.mutable_prompt();
  Add(std::move(message));
  bytes_ += entries_.back()->scores.emplace(std::move(scores), tokenizer).bytes();
}

v1::GenerateResponse WriteBuffer::Take() {
  Entry& first = *entries_.front();
  if (first.scores) {
    v1::GenerateResponse part = first.message;
    bytes_ -= first.scores->bytes();
    first.scores->TakeInto(kMaxMessageContentBytes, part.mutable_prompt());
    bytes_ += first.scores->bytes();
    if (!first.scores->empty()) return part;
    first.message = std::move(part);
  }
  const std::unique_ptr<Entry> entry = std::move(entries_.front());
  entries_.pop_front();
  Entry*& last = last_output_[static_cast<size_t>(entry->message.index())];
  if (last == entry.get()) last = nullptr;
  bytes_ -= entry->bytes;
  return std::move(entry->message);
}

}  // namespace tessera
