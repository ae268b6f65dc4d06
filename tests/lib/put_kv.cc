#include "tests/lib/put_kv.h"

#include <algorithm>

namespace tessera::testing {
namespace {

// Returns a wrong cell. At even positions the cell has the right position, so that only the tokens
// generated from it show the error.
FakeCell Garbage(int32_t position) {
  FakeCell cell;
  if (position % 2 == 0) cell = {/*token=*/position % 7, position, 0};
  return cell;
}

}  // namespace

bool TakesKv(const Sequence& s) {
  return s.state == SequenceState::kRunning && s.num_steps == 0 &&
         s.num_computed + 2 <= s.num_tokens();
}

bool PutKv(const KvTarget& target, Sequence* s, int64_t num_computed,
           absl::Span<const TokenRange> holes, uint64_t adapter) {
  if (!target.kv->Grow(&s->kv, num_computed)) return false;
  const int32_t model = s->request->model;
  const PageLayout& layout = target.kv->layout(model);
  const int32_t page_tokens = layout.page_tokens();
  for (int64_t t = s->num_computed; t < num_computed; ++t) {
    const bool is_hole = std::any_of(holes.begin(), holes.end(), [t](const TokenRange& hole) {
      return hole.begin <= t && t < hole.end;
    });
    const auto position = static_cast<int32_t>(t);
    const FakeCell right{s->tokens[t], position, adapter};
    for (int32_t g = 0; g < layout.num_groups(); ++g) {
      target.runner->WriteCell(model, g, s->kv.groups[g].pages[t / page_tokens],
                               position % page_tokens, is_hole ? Garbage(position) : right);
    }
  }
  target.core->TakeComputed(s, num_computed, holes);
  return true;
}

}  // namespace tessera::testing
