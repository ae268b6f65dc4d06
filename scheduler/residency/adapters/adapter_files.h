// Functions by which the adapter registry finds and examines adapters' folders on disk, and the
// thread that examines the folders regularly. The disk may be slow, so the threads of gRPC,
// responders and the engine must not call these functions.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "kernels/model/model_spec.h"

namespace tessera {

struct AdapterSource {
  std::string name;      // see adapter_name.h
  std::string revision;  // the operator's name of this content; may be empty
  int32_t model = 0;
  std::string path;  // a folder in PEFT's layout
  // Folders. The files of `path` must lie below one of them after all links are resolved. Empty:
  // the files may lie anywhere.
  std::vector<std::string> roots = {};
  // FindAdapters found it in a folder of adapters; nobody named it.
  bool listed = false;
};

// What a model needs its adapters to be.
struct AdapterModel {
  std::string name;
  ModelSpec spec;
  int64_t page_bytes = 0;
  DType dtype = DType::kBF16;  // dtype of adapters in the pool
};

// What the headers of an adapter's files say.
struct AdapterFacts {
  int32_t rank = 0;   // largest rank of a linear
  int64_t bytes = 0;  // bytes of the adapter's pages in the pool
};

// Checks the configuration and the header of an adapter's files against the model, and with `whole`
// also the values of all tensors. The error names the file and says what to change.
absl::StatusOr<AdapterFacts> InspectAdapter(const AdapterModel& model, const AdapterSource& source,
                                            bool whole);

bool IsAdapterFolder(const std::string& path);

inline constexpr size_t kMaxAdaptersAtOnce = 65'536;

// The adapter folders directly in `path`, at most kMaxAdaptersAtOnce, or `path` itself if it is an
// adapter folder. Each adapter has the name of its folder. PERMISSION_DENIED: `path` is not below
// one of `roots` (empty: anywhere) after all links are resolved.
absl::StatusOr<std::vector<AdapterSource>> FindAdapters(const std::string& path, int32_t model,
                                                        const std::vector<std::string>& roots = {});

// A string that changes when the adapter's files change: device, inode, size and modification time.
// The message of a NOT_FOUND status names the missing file.
absl::StatusOr<std::string> IdentityOfAdapterFiles(const std::string& path);

// Calls `look` every `interval_us` on its own thread, which has a low priority.
class FileWatch final {
 public:
  FileWatch(int64_t interval_us, std::function<void()> look);
  // Waits for a running call of `look`.
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

 private:
  void Loop();

  const int64_t interval_us_;
  const std::function<void()> look_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;  // the last member, because the thread uses the members above
};

}  // namespace tessera
