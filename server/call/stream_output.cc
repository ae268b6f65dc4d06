#include "server/call/stream_output.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "server/call/errors.h"
#include "server/call/pending_scores.h"
#include "server/call/served_model.h"
#include "server/text/tokenizer/detokenizer.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

v1::FinishReason WireReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kQuota:
      return v1::FINISH_REASON_QUOTA;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_ERROR;
}

}  // namespace

struct StreamOutput::Index {
  Index(const StreamOptions& options, const StopSet* stops)
      : detokenizer(options.model->tokenizer.get(), options.prompt_tail,
                    options.skip_special_tokens),
        matcher(stops, options.stops.include_stop) {}

  IncrementalDetokenizer detokenizer;
  StopMatcher matcher;
  int64_t num_tokens = 0;      // tokens delivered to the client
  std::optional<size_t> stop;  // index of the stop string that was found
  bool finished = false;
};

StreamOutput::StreamOutput(StreamOptions options)
    : options_(std::move(options)),
      stop_set_(options_.stops.strings),
      num_unfinished_(options_.n),
      buffer_(options_.n) {
  for (int32_t i = 0; i < options_.n; ++i) {
    indices_.push_back(std::make_unique<Index>(options_, &stop_set_));
  }
}

StreamOutput::~StreamOutput() = default;

v1::GenerateResponse StreamOutput::NewMessage(int32_t index) const {
  v1::GenerateResponse message;
  message.set_request_id(options_.request_id);
  message.set_index(index);
  return message;
}

CallTotals StreamOutput::totals() const {
  CallTotals totals = totals_;
  for (const auto& index : indices_) totals.usage.completion_tokens += index->num_tokens;
  return totals;
}

void StreamOutput::Accept(int64_t prompt_tokens) {
  totals_.usage.prompt_tokens = prompt_tokens;
  v1::GenerateResponse message = NewMessage(0);
  message.mutable_accepted()->set_prompt_tokens(prompt_tokens);
  buffer_.Add(std::move(message));
}

bool StreamOutput::OnEvent(TokenEvent event) {
  if (event.index < 0 || event.index >= options_.n) return false;
  if (indices_[static_cast<size_t>(event.index)]->finished) return false;
  switch (event.kind) {
    case TokenEvent::Kind::kPromptLogprobs:
      buffer_.AddPromptScores(NewMessage(event.index), std::move(event.tokens),
                              options_.model->tokenizer.get());
      return false;
    case TokenEvent::Kind::kToken:
      return OnTokens(event);
    case TokenEvent::Kind::kFinished:
      OnFinished(event);
      return false;
    case TokenEvent::Kind::kEmbedding:
      return false;
  }
  return false;
}

bool StreamOutput::AppendTokenText(TokenId token, Index* index, std::string* out) const {
  const std::string piece = index->detokenizer.Push(token);
  if (index->num_tokens <= options_.stops.min_tokens) {
    out->append(piece);
    return false;
  }
  StopMatcher::Result result = index->matcher.Feed(piece);
  // Text that the detokenizer still holds back may also complete a stop string.
  if (!result.match && index->matcher.WouldMatch(index->detokenizer.Held())) {
    StopMatcher::Result rest = index->matcher.Feed(index->detokenizer.Flush());
    result.text += rest.text;
    result.match = rest.match;
  }
  out->append(result.text);
  index->stop = result.match;
  return result.match.has_value();
}

bool StreamOutput::OnTokens(const TokenEvent& event) {
  Index& index = *indices_[static_cast<size_t>(event.index)];
  if (index.stop) return false;
  v1::GenerateResponse message = NewMessage(event.index);
  v1::Output* output = message.mutable_output();
  output->set_token_offset(index.num_tokens);
  bool stopped = false;
  for (size_t i = 0; i < event.tokens.size() && !stopped; ++i) {
    const OutputToken& token = event.tokens[i];
    output->add_token_ids(token.token);
    if (options_.has_logprobs) {
      CopyScore(token, *options_.model->tokenizer, output->add_logprobs());
    }
    ++index.num_tokens;
    const bool is_end = event.ends_with_stop && i + 1 == event.tokens.size();
    if (is_end && !options_.stops.include_stop) continue;
    stopped = AppendTokenText(token.token, &index, output->mutable_text());
  }
  buffer_.Add(std::move(message));
  return stopped;
}

const std::string* StreamOutput::SpecialStop(std::optional<TokenId> id) const {
  for (const auto& [special, text] : options_.stops.special) {
    if (id == special) return &text;
  }
  return nullptr;
}

std::string StreamOutput::RestOfText(const TokenEvent& finished, Index* index) const {
  // The held text cannot complete a stop string: AppendTokenText checked it after every token.
  std::string rest = index->matcher.Flush() + index->detokenizer.Flush();
  if (!options_.stops.include_stop || !options_.skip_special_tokens) return rest;
  // The detokenizer left the token out, but the client asked for the stop string.
  const std::string* const stop =
      SpecialStop(finished.matched_eos ? finished.matched_eos : finished.matched_stop);
  if (stop != nullptr) rest += *stop;
  return rest;
}

void StreamOutput::OnFinished(const TokenEvent& event) {
  Index& index = *indices_[static_cast<size_t>(event.index)];
  index.finished = true;
  --num_unfinished_;
  const FinishReason reason = index.stop ? FinishReason::kStop : event.reason;
  totals_.AddFinished(event, reason);
  totals_.usage.cached_prompt_tokens =
      std::max(totals_.usage.cached_prompt_tokens, event.usage.cached_prompt_tokens);
  if (!index.stop) {
    if (std::string rest = RestOfText(event, &index); !rest.empty()) {
      v1::GenerateResponse message = NewMessage(event.index);
      message.mutable_output()->set_token_offset(index.num_tokens);
      message.mutable_output()->set_text(std::move(rest));
      buffer_.Add(std::move(message));
    }
  }
  v1::GenerateResponse message = NewMessage(event.index);
  v1::Finished* finished = message.mutable_finished();
  finished->set_reason(WireReason(reason));
  finished->set_exactness(v1::EXACTNESS_EXACT);
  if (index.stop) {
    finished->set_stop_text(stop_set_.stop(*index.stop));
  } else if (event.matched_eos) {
    finished->set_eos_token_id(*event.matched_eos);
  } else if (const std::string* stop = SpecialStop(event.matched_stop); stop != nullptr) {
    finished->set_stop_text(*stop);
  } else if (event.matched_stop) {
    finished->set_stop_token_id(*event.matched_stop);
  }
  if (finished->reason() == v1::FINISH_REASON_ERROR) {
    finished->mutable_status()->set_code(static_cast<int32_t>(event.status.code()));
    finished->mutable_status()->set_message(BoundedMessage(WithoutFolders(event.status.message())));
  }
  message.mutable_usage()->set_prompt_tokens(event.usage.prompt_tokens);
  message.mutable_usage()->set_cached_prompt_tokens(event.usage.cached_prompt_tokens);
  message.mutable_usage()->set_completion_tokens(index.num_tokens);
  message.mutable_timing()->set_queue_us(event.timing.queue_us);
  message.mutable_timing()->set_prefill_us(event.timing.prefill_us);
  message.mutable_timing()->set_decode_us(event.timing.decode_us);
  message.mutable_timing()->set_ttft_us(event.timing.ttft_us);
  buffer_.Add(std::move(message));
}

}  // namespace tessera
