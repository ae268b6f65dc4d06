#include "kernels/model/whole_sequences.h"

#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr int64_t kSlabAlign = 64;  // bytes

}  // namespace

WholeSequences::WholeSequences(Backend* backend, const PageLayout& layout, int32_t num_sequences,
                               int32_t max_tokens)
    : layout_(layout),
      num_sequences_(num_sequences),
      max_tokens_(max_tokens),
      pages_per_group_(CeilDiv(max_tokens, layout.page_tokens())) {
  layout_.slabs_per_page = 1;
  layout_.slab_bytes = RoundUp<int64_t>(layout_.groups[0].page_bytes(), kSlabAlign);
  // Page 0 is the null page.
  const int64_t num_pages =
      1 + int64_t{num_sequences} * layout_.num_groups() * int64_t{pages_per_group_};
  memory_ = backend->Allocate(static_cast<size_t>(num_pages * layout_.slab_bytes));
  if (memory_ == nullptr) return;
  pool_ = {static_cast<char*>(memory_->data()), layout_.slab_bytes, num_pages};
}

void WholeSequences::Begin(Model* model, const std::vector<std::vector<TokenId>>& sequences,
                           int32_t first) {
  CHECK_LE(static_cast<int64_t>(sequences.size()), num_sequences_);
  arena_.Clear();
  batch_ = StepBatch();
  batch_.num_groups = layout_.num_groups();
  AddTokens(sequences, first);
  AddPages(sequences, first);
  model->Begin({&batch_, arena_.base()}, {pool_, &layout_}, &result_);
}

void WholeSequences::AddTokens(const std::vector<std::vector<TokenId>>& sequences, int32_t first) {
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<Segment> segments;
  for (const std::vector<TokenId>& sequence : sequences) {
    const auto size = static_cast<int32_t>(sequence.size());
    CHECK_LT(first, size);
    CHECK_LE(size, max_tokens_);
    Segment segment;
    segment.token_begin = static_cast<int32_t>(tokens.size());
    segment.num_tokens = size - first;
    segments.push_back(segment);
    for (int32_t token = first; token < size; ++token) {
      tokens.push_back(sequence[static_cast<size_t>(token)]);
      positions.push_back(token);
    }
  }
  batch_.tokens = arena_.AddCopy(tokens);
  batch_.positions = arena_.AddCopy(positions);
  batch_.segments = arena_.AddCopy(segments);
}

void WholeSequences::AddPages(const std::vector<std::vector<TokenId>>& sequences, int32_t first) {
  const int32_t page_tokens = layout_.page_tokens();
  std::vector<int64_t> write_places;
  std::vector<Range> run_ranges;
  std::vector<KvRun> runs;
  std::vector<PageId> pages;
  for (int32_t group = 0; group < layout_.num_groups(); ++group) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto sequence = static_cast<int32_t>(s);
      const auto size = static_cast<int32_t>(sequences[s].size());
      for (int32_t token = first; token < size; ++token) {
        write_places.push_back(int64_t{PageOf(sequence, group, token)} * page_tokens +
                               token % page_tokens);
      }
      KvRun run;
      run.page_begin = static_cast<int32_t>(pages.size());
      run.num_pages = CeilDiv(size, page_tokens);
      run.count = size;
      run_ranges.push_back({static_cast<int32_t>(runs.size()), 1});
      runs.push_back(run);
      for (int32_t i = 0; i < run.num_pages; ++i) {
        pages.push_back(PageOf(sequence, group, i * page_tokens));
      }
    }
  }
  batch_.write_places = arena_.AddCopy(write_places);
  batch_.run_ranges = arena_.AddCopy(run_ranges);
  batch_.runs = arena_.AddCopy(runs);
  batch_.pages = arena_.AddCopy(pages);
}

}  // namespace tessera
