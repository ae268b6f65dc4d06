#include "kernels/base/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace tessera {

// A mapping as the signal handler sees it.
struct MappedFile::Range {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // 0: no mapping has this range
  std::atomic<bool> lost{false};
  Range* next = nullptr;
};

// All ranges of the process. The members are static because a signal handler has no argument of
// its own. A handler may walk the list at any time, so the list only grows; a range whose mapping
// is gone is used again.
class MappedFile::Ranges final {
 public:
  static Range* Add(uintptr_t begin, uintptr_t end) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (first_ == nullptr) Install();
    Range* range = first_;
    while (range != nullptr && range->end != 0) range = range->next;
    if (range == nullptr) {
      range = new Range();
      range->next = first_;
      first_ = range;
    }
    range->lost = false;
    range->begin = begin;
    range->end = end;  // from here on the handler uses the range
    return range;
  }

  static void Remove(Range* range) { range->end = 0; }

 private:
  static void Install() {
    struct sigaction action = {};
    action.sa_sigaction = &OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    CHECK_EQ(sigaction(SIGBUS, &action, &before_), 0) << std::strerror(errno);
  }

  static Range* Find(uintptr_t address) {
    for (Range* range = first_; range != nullptr; range = range->next) {
      const uintptr_t end = range->end;
      const uintptr_t begin = range->begin;
      // If `end` has changed, `begin` may belong to another mapping.
      if (begin <= address && address < end && range->end == end) return range;
    }
    return nullptr;
  }

  static void OnBusError(int signal, siginfo_t* info, void* /*context*/) {
    const int saved_errno = errno;
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    const bool is_access = info->si_code > 0;  // and not a signal that a process sent
    Range* const range = is_access ? Find(address) : nullptr;
    if (range != nullptr && Replace(address / kPageBytes * kPageBytes, range->end)) {
      range->lost = true;
    } else {
      // The action that was set before is taken when the thread repeats the access.
      sigaction(SIGBUS, &before_, nullptr);
      if (!is_access) raise(signal);
    }
    errno = saved_errno;
  }

  // Puts zeros in place of the bytes [begin, end) of a mapping.
  static bool Replace(uintptr_t begin, uintptr_t end) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the address of the access is an integer here.
    void* const place = reinterpret_cast<void*>(begin);
    return mmap(place, end - begin, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
  }

  static inline const uintptr_t kPageBytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  static inline std::mutex mutex_;  // of writers; the handler takes no lock
  static inline std::atomic<Range*> first_ = nullptr;
  static inline struct sigaction before_ = {};
};

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path,
                                                             const ForeignFileOptions& options) {
  ASSIGN_OR_RETURN(ForeignFile file, ForeignFile::Open(path, options));
  if (file.size() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is empty; the file was not written or downloaded completely"));
  }
  const size_t size = static_cast<size_t>(file.size());
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (data == MAP_FAILED) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": cannot be mapped: ", std::strerror(errno)));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile(std::move(file), static_cast<const char*>(data), size));
}

MappedFile::MappedFile(ForeignFile file, const char* data, size_t size)
    : file_(std::move(file)),
      data_(data),
      size_(size),
      range_(Ranges::Add(reinterpret_cast<uintptr_t>(data),
                         reinterpret_cast<uintptr_t>(data) + size)) {}

MappedFile::~MappedFile() {
  Ranges::Remove(range_);
  munmap(const_cast<char*>(data_), size_);
}

absl::Status MappedFile::CheckIntact() const {
  RETURN_IF_ERROR(file_.CheckUnchanged());
  if (!range_->lost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file_.path(), ": could not be read completely; check the disk"));
}

}  // namespace tessera
