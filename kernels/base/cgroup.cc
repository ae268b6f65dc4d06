#include "kernels/base/cgroup.h"

#include <fstream>

#include "absl/strings/str_split.h"

namespace tessera {
namespace {

// Appends the folder of the group `path` below `root`, and the folders of its ancestors down to
// `root` itself.
void AddPath(const std::string& root, std::string path, std::vector<std::string>* folders) {
  while (!path.empty()) {
    if (path != "/") folders->push_back(root + path);
    path.resize(path.rfind('/'));
  }
  folders->push_back(root);
}

// Returns the path of the process's group from the line "NUMBER:CONTROLLERS:/path". Version 2 has
// no controllers in its line. Empty if there is no such line.
std::string OwnPath(const std::string& own, const std::string& controller) {
  std::ifstream file(own);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || parts[2].empty() || parts[2][0] != '/') continue;
    for (const absl::string_view name : absl::StrSplit(parts[1], ',')) {
      if (name == controller) return parts[2];
    }
  }
  return "";
}

}  // namespace

std::vector<std::string> CgroupFolders(const CgroupFiles& files) {
  std::vector<std::string> folders;
  AddPath(files.root, OwnPath(files.own, ""), &folders);
  return folders;
}

std::vector<std::string> CgroupV1Folders(const CgroupFiles& files, const std::string& controller) {
  std::vector<std::string> folders;
  AddPath(files.root + "/" + controller, OwnPath(files.own, controller), &folders);
  return folders;
}

}  // namespace tessera
