// Moves runs of pages between host memory and the pool of one device, beside the steps: adapters
// that are loaded, and later KV that a tier or a peer keeps. A transfer never orders itself against
// steps; the caller holds the pages until the completion.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/base/completion.h"
#include "kernels/base/types.h"
#include "kernels/device/backend.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// A run of pages. The host's bytes lie page after page in the order of `pages`.
struct PageRun {
  std::vector<PageId> pages;
  int64_t page_bytes = 0;  // bytes to move of each page, from its first byte
};

class Transfer {
 public:
  // Called once for each transfer, from any thread and possibly before the call that started the
  // transfer returns. It must not block.
  using Done = std::function<void(Completion)>;

  // Returns when no transfer runs any more.
  virtual ~Transfer() = default;

  // Both start a transfer; its completion has `ticket`. The host memory, run.pages.size() *
  // run.page_bytes bytes, stays untouched until then. Any thread. REQUIRES: until the completion no
  // step uses pages that are written, and no step writes pages that are read.
  virtual void ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) = 0;
  virtual void ToHost(const PageRun& run, char* to, uint64_t ticket, Done done) = 0;
};

// Copies on the calling thread by Backend::Upload and Backend::Download: for devices whose memory
// is the host's. `backend` must outlive it.
std::unique_ptr<Transfer> NewCopyTransfer(Backend* backend, const PoolView& pool);

}  // namespace tessera
