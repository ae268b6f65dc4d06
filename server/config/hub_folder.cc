#include "server/config/hub_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/foreign_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "models--";
constexpr char kSeparator[] = "--";
constexpr char kSnapshots[] = "snapshots";
constexpr int64_t kMaxRefBytes = 256;
constexpr size_t kMaxListed = 4;

// The path without a slash at its end, so that it has a file name. "." and ".." become the folders
// that they stand for.
fs::path Folder(const std::string& path) {
  fs::path folder = fs::path(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  const fs::path name = folder.filename();
  if (name != "." && name != ".." && !name.empty()) return folder;
  std::error_code ignored;
  return fs::weakly_canonical(folder, ignored);
}

bool IsHubFolder(const fs::path& folder) {
  std::error_code ignored;
  return absl::StartsWith(folder.filename().string(), kPrefix) &&
         fs::is_directory(folder / kSnapshots, ignored);
}

// Whether the text may be the name of a snapshot. It becomes a part of a path.
bool IsCommit(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isalnum);
}

// The snapshots in the folder, as an end of an error message.
std::string ListSnapshots(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder / kSnapshots, error), end; !error && it != end;
       it.increment(error)) {
    if (names.size() == kMaxListed) break;
    names.push_back(it->path().string());
  }
  std::sort(names.begin(), names.end());
  return names.empty() ? "download the model again"
                       : absl::StrCat("give one of its snapshots: ", absl::StrJoin(names, ", "));
}

}  // namespace

absl::StatusOr<std::string> ResolveHubFolder(const std::string& path) {
  const fs::path folder = Folder(path);
  if (!IsHubFolder(folder)) return path;
  const fs::path ref = folder / "refs" / "main";
  const absl::StatusOr<std::string> text =
      ReadForeignFile(ref.string(), {.max_bytes = kMaxRefBytes, .roots = {}});
  const absl::string_view commit =
      text.ok() ? absl::StripAsciiWhitespace(*text) : absl::string_view();
  const fs::path snapshot = folder / kSnapshots / std::string(commit);
  std::error_code ignored;
  if (IsCommit(commit) && fs::is_directory(snapshot, ignored)) return snapshot.string();
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": is a folder of Hugging Face's cache whose refs/main names no snapshot; ",
      ListSnapshots(folder)));
}

std::string DefaultModelName(const std::string& path) {
  const fs::path folder = Folder(path);
  const bool is_snapshot = folder.parent_path().filename() == kSnapshots;
  const fs::path hub = is_snapshot ? folder.parent_path().parent_path() : folder;
  const std::string name = hub.filename().string();
  const size_t separator = name.rfind(kSeparator);
  const bool has_name =
      absl::StartsWith(name, kPrefix) && separator + sizeof(kSeparator) - 1 < name.size();
  return has_name ? name.substr(separator + sizeof(kSeparator) - 1) : folder.filename().string();
}

}  // namespace tessera
