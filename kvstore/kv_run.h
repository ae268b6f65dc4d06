// The KV of a run of tokens as bytes that any engine with the same Identity can read, whatever
// number of tokens its pages hold. The bytes of a run are its rows in the fixed order
//   [group][layer of the group][K, V][kv_head][token][row bytes]
// little endian, without the padding of pages or of groups. Rows are carried as they lie in a page
// (kernels/step/page_layout.h): int8 rows with their scales.
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

// Where the tokens of a run lie in a list of page images.
struct RunPlace {
  int64_t first = 0;  // index of the run's first token, counted from the first token of image 0
  int64_t count = 0;  // tokens; at most kRunTokens in a named run, less at the end of a prompt
};

// [groups][pages]: images of pages in the order of the block table, at least
// GroupLayout::page_bytes() bytes each. All groups list the same token range.
using PageImages = absl::Span<const std::vector<char*>>;
using ConstPageImages = absl::Span<const std::vector<const char*>>;

// Bytes of a run of `count` tokens.
int64_t RunBytes(const PageLayout& layout, int64_t count);

// Reads the run's rows from the images. REQUIRES: the images of each group reach the run's end.
std::string ExportRun(const PageLayout& layout, ConstPageImages pages, const RunPlace& place);

// Writes the run's rows into the images and leaves all other bytes of the images untouched.
// INVALID_ARGUMENT, and nothing is written, when `run` has not RunBytes(layout, place.count) bytes.
// REQUIRES: as ExportRun.
absl::Status ImportRun(const PageLayout& layout, absl::string_view run, PageImages pages,
                       const RunPlace& place);

}  // namespace tessera
