#include "scheduler/residency/adapters/adapter_files.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "kernels/model/lora/peft.h"

namespace tessera {
namespace {

// Says in which folder a relative path is looked up, because that is the server's working directory
// and not the client's.
std::string WhereRelative(const std::string& path) {
  if (std::filesystem::path(path).is_absolute()) return "";
  std::error_code error;
  return absl::StrCat(" (a relative path starts in the server's working directory, ",
                      std::filesystem::current_path(error).string(), ")");
}

bool IsBelow(const std::filesystem::path& path, const std::filesystem::path& root) {
  const auto [end, unused] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return end == root.end();
}

// The path without links and without a slash at its end. Parts that do not exist are kept.
std::filesystem::path RealPath(const std::string& path) {
  std::error_code error;
  std::filesystem::path real =
      std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
  return real.has_filename() ? real : real.parent_path();
}

absl::Status CheckBelow(const std::string& path, const std::vector<std::string>& roots) {
  if (roots.empty()) return absl::OkStatus();
  const std::filesystem::path real = RealPath(path);
  for (const std::string& root : roots) {
    if (IsBelow(real, RealPath(root))) return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      absl::StrCat(path, WhereRelative(path), " is not below ", absl::StrJoin(roots, " or "),
                   ", where adapters may lie; move it there, or add its folder to adapters.roots "
                   "in the server's configuration"));
}

}  // namespace

absl::StatusOr<AdapterFacts> InspectAdapter(const AdapterModel& model, const AdapterSource& source,
                                            bool whole) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ranks,
                   PeftAdapter::ReadRanks(model.spec, source.path, source.roots));
  ASSIGN_OR_RETURN(const AdapterLayout layout,
                   PlanImage(model.spec, ranks, model.dtype, model.page_bytes));
  if (whole) {
    RETURN_IF_ERROR(PeftAdapter::Open(model.spec, source.path, source.roots).status());
  }
  return AdapterFacts{*std::max_element(ranks.begin(), ranks.end()),
                      layout.num_pages * layout.page_bytes};
}

absl::StatusOr<std::vector<AdapterSource>> FindAdapters(const std::string& path, int32_t model,
                                                        const std::vector<std::string>& roots) {
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the path ", absl::CHexEscape(path), " has a NUL byte; remove it"));
  }
  RETURN_IF_ERROR(CheckBelow(path, roots));
  const std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  std::vector<AdapterSource> sources;
  const auto add = [&](const std::filesystem::path& of, bool listed) {
    const std::string name = of.has_filename() ? of.filename() : of.parent_path().filename();
    sources.push_back({name, "", model, of.string(), roots, listed});
  };
  if (IsAdapterFolder(folder.string())) {
    add(folder, /*listed=*/false);
    return sources;
  }
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  const std::filesystem::directory_iterator end;
  for (; !error && it != end; it.increment(error)) {
    if (IsAdapterFolder(it->path().string())) add(it->path(), /*listed=*/true);
    if (sources.size() <= kMaxAdaptersAtOnce) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds more than ", kMaxAdaptersAtOnce,
                     " adapters; spread them over several folders and register each"));
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat(path, WhereRelative(path), ": ", error.message(),
                                            "; name a folder on the server's disk"));
  }
  if (sources.empty()) {
    return absl::NotFoundError(
        absl::StrCat(path, WhereRelative(path),
                     ": neither an adapter (adapter_config.json) nor a folder of adapters"));
  }
  std::sort(sources.begin(), sources.end(),
            [](const AdapterSource& a, const AdapterSource& b) { return a.name < b.name; });
  return sources;
}

bool IsAdapterFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path + "/adapter_config.json", error);
}

absl::StatusOr<std::string> IdentityOfAdapterFiles(const std::string& path) {
  std::string identity;
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    const std::string file = path + name;
    struct stat info;
    if (stat(file.c_str(), &info) != 0) {
      return absl::NotFoundError(
          absl::StrCat(file,
                       ": no such file; an adapter is a folder with adapter_config.json and "
                       "adapter_model.safetensors"));
    }
    absl::StrAppend(&identity, info.st_dev, ".", info.st_ino, ".", info.st_size, ".",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ";");
  }
  return identity;
}

FileWatch::FileWatch(int64_t interval_us, std::function<void()> look)
    : interval_us_(interval_us), look_(std::move(look)), thread_([this] { Loop(); }) {}

FileWatch::~FileWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void FileWatch::Loop() {
  setpriority(PRIO_PROCESS, 0, 10);  // Linux: the priority of this thread only
  const std::chrono::microseconds interval(interval_us_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_.wait_for(lock, interval, [this] { return stopping_; })) {
    lock.unlock();
    look_();
    lock.lock();
  }
}

}  // namespace tessera
