// Copies pages between host memory and the page pool of one device while steps run: adapters that
// are loaded and, later, KV that another memory tier or another node keeps. A transfer is not
// ordered with steps, so the caller keeps the pages reserved until the transfer's completion.
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

// The pages of one transfer. In host memory their bytes are contiguous, in the order of `pages`.
struct PageRun {
  std::vector<PageId> pages;
  int64_t page_bytes = 0;  // bytes to copy of each page, from the page's first byte
};

class Transfer {
 public:
  // Called once for each transfer, from any thread and possibly before the call that started the
  // transfer returns. The function must not block.
  using Done = std::function<void(Completion)>;

  // The destructor returns when no transfer runs any more.
  virtual ~Transfer() = default;

  // ToDevice and ToHost start a transfer, whose completion has `ticket`. Any thread. REQUIRES until
  // the completion: the caller does not touch the host memory, run.pages.size() * run.page_bytes
  // bytes; no step uses pages that the transfer writes, and no step writes pages that the transfer
  // reads.
  virtual void ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) = 0;
  virtual void ToHost(const PageRun& run, char* to, uint64_t ticket, Done done) = 0;
};

// Creates a Transfer that copies on the calling thread by Backend::Upload and Backend::Download,
// for devices whose memory is host memory. `backend` must outlive the Transfer.
std::unique_ptr<Transfer> NewCopyTransfer(Backend* backend, const PoolView& pool);

}  // namespace tessera
