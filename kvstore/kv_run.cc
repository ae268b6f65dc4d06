#include "kvstore/kv_run.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// Rows are copied as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr int kKeyAndValue = 2;

// Calls copy(image, num_bytes) for each piece of one head's elements of the run that lies in one
// page, in the order of tokens. `array`: the elements, from the start of a page.
template <class Image, class Copy>
void ForEachPiece(const GroupLayout& group, const std::vector<Image>& pages, const RunPlace& place,
                  const GroupLayout::TokenArray& array, const Copy& copy) {
  const int64_t end = place.first + place.count;
  for (int64_t token = place.first; token < end;) {
    const int64_t in_page = token % group.page_tokens;
    const int64_t num_tokens = std::min<int64_t>(group.page_tokens - in_page, end - token);
    const Image page = pages[static_cast<size_t>(token / group.page_tokens)];
    CHECK(page != nullptr) << "the run's token " << token << " has no page in a group";
    copy(page + array.offset + in_page * array.element_bytes, num_tokens * array.element_bytes);
    token += num_tokens;
  }
}

template <class Image, class Copy>
void ForEachPiece(const PageLayout& layout, absl::Span<const std::vector<Image>> pages,
                  const RunPlace& place, const Copy& copy) {
  CHECK(place.first >= 0 && place.count >= 0) << place.first << " " << place.count;
  CHECK_EQ(pages.size(), layout.groups.size());
  for (size_t g = 0; g < pages.size(); ++g) {
    const GroupLayout& group = layout.groups[g];
    CHECK_GE(static_cast<int64_t>(pages[g].size()) * group.page_tokens, place.first + place.count);
    const int64_t num_heads = int64_t{kKeyAndValue} * group.num_used_layers() * group.kv_heads;
    for (int64_t head = 0; head < num_heads; ++head) {
      for (GroupLayout::TokenArray array : group.token_arrays()) {
        array.offset += head * group.head_stride();
        if (array.element_bytes > 0) ForEachPiece(group, pages[g], place, array, copy);
      }
    }
  }
}

}  // namespace

int64_t RunBytes(const PageLayout& layout, int64_t count) {
  int64_t token_bytes = 0;
  for (const GroupLayout& group : layout.groups) {
    token_bytes +=
        int64_t{kKeyAndValue} * group.num_used_layers() * group.kv_heads * group.token_bytes();
  }
  return token_bytes * count;
}

std::string ExportRun(const PageLayout& layout, ConstPageImages pages, const RunPlace& place) {
  std::string run;
  run.reserve(static_cast<size_t>(RunBytes(layout, place.count)));
  ForEachPiece(layout, pages, place, [&run](const char* image, int64_t num_bytes) {
    run.append(image, static_cast<size_t>(num_bytes));
  });
  return run;
}

absl::Status ImportRun(const PageLayout& layout, absl::string_view run, PageImages pages,
                       const RunPlace& place) {
  const int64_t expected_bytes = RunBytes(layout, place.count);
  if (static_cast<int64_t>(run.size()) != expected_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a run of ", place.count, " tokens has ", run.size(),
                     " bytes, this model's runs of that length have ", expected_bytes,
                     ": the run was cut or belongs to another model; drop it"));
  }
  const char* from = run.data();
  ForEachPiece(layout, pages, place, [&from](char* image, int64_t num_bytes) {
    std::memcpy(image, from, static_cast<size_t>(num_bytes));
    from += num_bytes;
  });
  return absl::OkStatus();
}

}  // namespace tessera
