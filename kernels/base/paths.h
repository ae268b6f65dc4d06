// Questions about paths that open no file. Pure functions of the file system; any thread.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

namespace tessera {

// Whether the path names anything. A link to nothing counts, so that whoever reads the path reports
// the link and does not take the file for absent.
inline bool PathExists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::symlink_status(path, error));
}

}  // namespace tessera
