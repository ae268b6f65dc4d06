#include "tests/lib/file_zoo.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/base/log.h"

namespace tessera::testing {

namespace fs = std::filesystem;

FileZoo::FileZoo() {
  dir_ = (fs::temp_directory_path() / "tessera_zoo_XXXXXX").string();
  CHECK(mkdtemp(dir_.data()) != nullptr) << dir_;
}

FileZoo::~FileZoo() {
  std::error_code ignored;
  fs::remove_all(dir_, ignored);
}

std::string FileZoo::Fresh(const std::string& name) {
  const std::string path = Path(name);
  fs::remove_all(path);
  fs::create_directories(fs::path(path).parent_path());
  return path;
}

std::string FileZoo::File(const std::string& name, const std::string& content) {
  const std::string path = Fresh(name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string FileZoo::Sparse(const std::string& name, int64_t bytes) {
  const std::string path = Empty(name);
  Truncate(path, bytes);
  return path;
}

std::string FileZoo::Fifo(const std::string& name) {
  const std::string path = Fresh(name);
  CHECK_EQ(mkfifo(path.c_str(), 0600), 0) << path;
  return path;
}

std::string FileZoo::Device(const std::string& name) { return Link(name, "/dev/zero"); }

std::string FileZoo::Folder(const std::string& name) {
  const std::string path = Fresh(name);
  fs::create_directories(path);
  return path;
}

std::string FileZoo::Socket(const std::string& name) {
  const std::string path = Fresh(name);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  CHECK_LT(path.size(), sizeof(address.sun_path)) << path;
  std::memcpy(address.sun_path, path.data(), path.size());
  CHECK_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0) << path;
  close(fd);
  return path;
}

std::string FileZoo::Link(const std::string& name, const std::string& target) {
  const std::string path = Fresh(name);
  fs::create_symlink(target, path);
  return path;
}

std::string FileZoo::LinkLoop(const std::string& name) {
  return Link(name, fs::path(name).filename().string());
}

std::string FileZoo::DanglingLink(const std::string& name) { return Link(name, "no_such_file"); }

std::string FileZoo::Unreadable(const std::string& name) {
  const std::string path = File(name, "{}");
  CHECK_EQ(chmod(path.c_str(), 0), 0) << path;
  return path;
}

std::string FileZoo::LfsPointer(const std::string& name) {
  return File(name,
              "version https://git-lfs.github.com/spec/v1\n"
              "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
              "size 988097824\n");
}

void FileZoo::Truncate(const std::string& path, int64_t bytes) {
  CHECK_EQ(truncate(path.c_str(), bytes), 0) << path;
}

const std::vector<FileZoo::Beast>& FileZoo::Beasts() {
  static const auto* const beasts = new std::vector<Beast>{
      {"named pipe", &FileZoo::Fifo, "named pipe"},
      {"device", &FileZoo::Device, "device"},
      {"folder", &FileZoo::Folder, "folder"},
      {"socket", &FileZoo::Socket, "socket"},
      {"loop of links", &FileZoo::LinkLoop, "symbolic links"},
      {"link to nothing", &FileZoo::DanglingLink, "does not exist"},
      {"Git LFS pointer", &FileZoo::LfsPointer, "git lfs pull"},
  };
  return *beasts;
}

}  // namespace tessera::testing
