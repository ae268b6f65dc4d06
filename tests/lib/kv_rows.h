// Rows of page memory as numbers and back, written from kernels/step/page_layout.h on its own:
// fills pools and judges what backends leave in them.
#pragma once

#include <vector>

#include "kernels/step/page_layout.h"

namespace tessera::testing {

std::vector<float> LoadKvRow(const GroupLayout& layout, const char* row);  // [head_dim]
void StoreKvRow(const GroupLayout& layout, const std::vector<float>& numbers, char* row);

// `numbers` as they are read back.
std::vector<float> AsStored(const GroupLayout& layout, const std::vector<float>& numbers);

}  // namespace tessera::testing
