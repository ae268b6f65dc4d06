// Reads and writes the K and V rows of pages. This code follows kernels/step/page_layout.h and
// kernels/device/key_rotation.h but is independent of the backends, so that tests can fill pools
// and check what backends wrote. A row is that of token `token` of `head`, the start of a head's K
// (part 0) or V (part 1) in a page. Pure functions.
#pragma once

#include <vector>

#include "kernels/step/page_layout.h"

namespace tessera::testing {

// Convert between a row and its key or value [head_dim].
std::vector<float> LoadKvRow(const GroupLayout& layout, const char* head, int token, int part);
void StoreKvRow(const GroupLayout& layout, const std::vector<float>& numbers, char* head, int token,
                int part);

// Returns `numbers` as LoadKvRow would read them after StoreKvRow.
std::vector<float> AsStored(const GroupLayout& layout, const std::vector<float>& numbers, int part);

// The bytes of a row, and its scale if it has one.
std::vector<char> KvRowBytes(const GroupLayout& layout, const char* head, int token);

}  // namespace tessera::testing
