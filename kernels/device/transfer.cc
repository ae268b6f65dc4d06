#include "kernels/device/transfer.h"

#include <utility>

#include "absl/status/status.h"

namespace tessera {
namespace {

class CopyTransfer final : public Transfer {
 public:
  CopyTransfer(Backend* backend, const PoolView& pool) : backend_(backend), pool_(pool) {}

  void ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) override {
    const auto bytes = static_cast<size_t>(run.page_bytes);
    for (size_t i = 0; i < run.pages.size(); ++i) {
      backend_->Upload(from + i * bytes, pool_.Page(run.pages[i]), bytes);
    }
    done({ticket, absl::OkStatus()});
  }

  void ToHost(const PageRun& run, char* to, uint64_t ticket, Done done) override {
    const auto bytes = static_cast<size_t>(run.page_bytes);
    for (size_t i = 0; i < run.pages.size(); ++i) {
      backend_->Download(pool_.Page(run.pages[i]), to + i * bytes, bytes);
    }
    done({ticket, absl::OkStatus()});
  }

 private:
  Backend* const backend_;
  const PoolView pool_;
};

}  // namespace

std::unique_ptr<Transfer> NewCopyTransfer(Backend* backend, const PoolView& pool) {
  return std::make_unique<CopyTransfer>(backend, pool);
}

}  // namespace tessera
