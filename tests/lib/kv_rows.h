// Reads and writes the K and V rows of pages. This code follows kernels/step/page_layout.h but is
// independent of the backends, so that tests can fill pools and check what backends wrote. Pure
// functions.
#pragma once

#include <vector>

#include "kernels/step/page_layout.h"

namespace tessera::testing {

// Convert between a row of a page and numbers [head_dim].
std::vector<float> LoadKvRow(const GroupLayout& layout, const char* row);
void StoreKvRow(const GroupLayout& layout, const std::vector<float>& numbers, char* row);

// Returns `numbers` as LoadKvRow would read them after StoreKvRow.
std::vector<float> AsStored(const GroupLayout& layout, const std::vector<float>& numbers);

}  // namespace tessera::testing
