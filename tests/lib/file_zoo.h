// Things that a path may name instead of the regular file that a reader expects. A zoo makes them
// in a temporary folder and removes the folder at its end. Owned by a test; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::testing {

class FileZoo final {
 public:
  FileZoo();
  ~FileZoo();
  FileZoo(const FileZoo&) = delete;
  FileZoo& operator=(const FileZoo&) = delete;

  const std::string& dir() const { return dir_; }
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  // Each of these makes one thing with this name and returns its path. A thing that has the name is
  // removed first.
  std::string File(const std::string& name, const std::string& content);
  std::string Empty(const std::string& name) { return File(name, ""); }
  std::string Sparse(const std::string& name, int64_t bytes);  // occupies no space on the disk
  std::string Fifo(const std::string& name);                   // has no writer
  std::string Device(const std::string& name);                 // a link to /dev/zero
  std::string Folder(const std::string& name);
  std::string Socket(const std::string& name);
  std::string Link(const std::string& name, const std::string& target);
  std::string LinkLoop(const std::string& name);
  std::string DanglingLink(const std::string& name);
  std::string Unreadable(const std::string& name);  // root may read it all the same
  std::string LfsPointer(const std::string& name);

  // Sets the length of a file in place, as a process does that writes the file again.
  static void Truncate(const std::string& path, int64_t bytes);

  // A thing that no reader may accept or wait for.
  struct Beast {
    const char* kind;  // for messages of the test
    std::string (FileZoo::*make)(const std::string& name);
    const char* says;  // a part of the reader's error
  };
  static const std::vector<Beast>& Beasts();

 private:
  std::string Fresh(const std::string& name);

  std::string dir_;
};

}  // namespace tessera::testing
