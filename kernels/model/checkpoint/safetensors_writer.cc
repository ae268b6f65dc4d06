#include "kernels/model/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr size_t kHeaderAlign = 8;  // bytes

int64_t NumberBytes(const TensorToWrite& tensor) {
  int64_t count = 1;
  for (const int64_t size : tensor.shape) count *= size;
  return count == 0 ? 0 : tensor.num_bytes / count;
}

// The length of the header and the header.
std::string HeaderOf(const std::vector<TensorToWrite>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  int64_t begin = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype_name},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, begin + tensor.num_bytes}}};
    begin += tensor.num_bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + kHeaderAlign - 1) / kHeaderAlign * kHeaderAlign, ' ');
  const uint64_t size = text.size();
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  return bytes + text;
}

// A file that has another name until it is whole.
class NewFile final {
 public:
  explicit NewFile(const std::string& path) : path_(path), part_(path + ".part") {}
  ~NewFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    std::remove(part_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  absl::Status Open() {
    descriptor_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return descriptor_ < 0 ? Error() : absl::OkStatus();
  }

  absl::Status Write(const char* data, int64_t num_bytes) {
    while (num_bytes > 0) {
      const ssize_t written = ::write(descriptor_, data, static_cast<size_t>(num_bytes));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return Error();
      data += written;
      num_bytes -= written;
    }
    return absl::OkStatus();
  }

  absl::Status Finish() {
    if (::fsync(descriptor_) != 0) return Error();
    const int descriptor = descriptor_;
    descriptor_ = -1;
    if (::close(descriptor) != 0 || std::rename(part_.c_str(), path_.c_str()) != 0) {
      absl::Status error = Error();
      std::remove(part_.c_str());
      return error;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Error() const {
    return absl::UnavailableError(absl::StrCat("cannot write ", path_, ": ", std::strerror(errno),
                                               "; check the folder and its free space"));
  }

  const std::string path_;
  const std::string part_;
  int descriptor_ = -1;
};

}  // namespace

absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int64_t bytes_a = NumberBytes(a);
    const int64_t bytes_b = NumberBytes(b);
    return bytes_a != bytes_b ? bytes_a > bytes_b : a.name < b.name;
  });
  NewFile file(path);
  RETURN_IF_ERROR(file.Open());
  const std::string header = HeaderOf(tensors);
  RETURN_IF_ERROR(file.Write(header.data(), static_cast<int64_t>(header.size())));
  for (const TensorToWrite& tensor : tensors) {
    RETURN_IF_ERROR(file.Write(tensor.data, tensor.num_bytes));
  }
  return file.Finish();
}

}  // namespace tessera
