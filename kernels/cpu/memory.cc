#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <limits>

#include "kernels/base/log.h"

namespace tessera::cpu {

std::unique_ptr<HugeBuffer> HugeBuffer::Create(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() / 2) return nullptr;
  // Small buffers (tests, tiny models) do not deserve a huge page.
  const bool huge = bytes >= kHugePageBytes;
  const size_t alignment = huge ? kHugePageBytes : size_t{kSmallPageBytes};
  const size_t size = RoundUp(bytes == 0 ? size_t{1} : bytes, alignment);
  const size_t mapping_bytes = huge ? size + alignment : size;
  void* const mapping =
      mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const uintptr_t data = RoundUp(reinterpret_cast<uintptr_t>(mapping), uintptr_t{alignment});
  char* const aligned = static_cast<char*>(mapping) + (data - reinterpret_cast<uintptr_t>(mapping));
  // Advice only: without huge pages everything still works, slower.
  if (huge) madvise(aligned, size, MADV_HUGEPAGE);
  return std::unique_ptr<HugeBuffer>(
      new HugeBuffer(static_cast<char*>(mapping), mapping_bytes, aligned, bytes));
}

HugeBuffer::~HugeBuffer() { munmap(mapping_, mapping_bytes_); }

bool Scratch::Reserve(int64_t bytes) {
  if (bytes <= size()) return true;
  buffer_.reset();
  buffer_ = HugeBuffer::Create(static_cast<size_t>(bytes));
  return buffer_ != nullptr;
}

char* Scratch::Bytes(size_t bytes) {
  if (static_cast<int64_t>(bytes) > size()) {
    num_grown_->fetch_add(1, std::memory_order_relaxed);
    CHECK(Reserve(static_cast<int64_t>(bytes + bytes / 2)))
        << " no memory for " << bytes << " bytes of working space";
  }
  return buffer_ == nullptr ? nullptr : static_cast<char*>(buffer_->data());
}

}  // namespace tessera::cpu
