// Exports and imports the KV of a run, which is a range of consecutive tokens (kRunTokens,
// page_hash.h). Any engine with the same Identity can read the bytes of a run, whatever number of
// tokens its pages hold. The bytes are the rows of the run in the fixed order
//   [group][layer of the group][K, V][kv_head][token][row bytes]
// little endian, without padding of pages or of groups. Each row has the same bytes as in a page
// (kernels/step/page_layout.h). The scales [token] of a head's int8 rows follow its rows.
//
// Pure functions on host memory; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// The place of a run's tokens in a list of page images.
struct RunPlace {
  int64_t first = 0;  // index of the run's first token, counted from the first token of image 0
  int64_t count = 0;  // number of tokens; at most kRunTokens in a run that has a name
};

// [groups][pages]: copies of pages in host memory, in the order of the block table, with at least
// GroupLayout::page_bytes() bytes each. The pages of every group hold the same token range. A
// page that its group has released, because the group's window has passed it, is null.
using PageImages = absl::Span<const std::vector<char*>>;
using ConstPageImages = absl::Span<const std::vector<const char*>>;

// The number of bytes of a run of `count` tokens.
int64_t RunBytes(const PageLayout& layout, int64_t count);

// Reads the run's rows from the images. REQUIRES: every group has images of all tokens of the run;
// a group with a window has them until the window has passed them.
std::string ExportRun(const PageLayout& layout, ConstPageImages pages, const RunPlace& place);

// Writes the run's rows into the images and leaves all other bytes of the images untouched. Returns
// INVALID_ARGUMENT and writes nothing if the size of `run` is not RunBytes(layout, place.count).
// REQUIRES: as ExportRun.
absl::Status ImportRun(const PageLayout& layout, absl::string_view run, PageImages pages,
                       const RunPlace& place);

}  // namespace tessera
