#include "kernels/model/checkpoint/pack_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxh_x86dispatch.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/log.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'T', 'S', 'R', 'p', 'a', 'c', 'k', '1'};
constexpr char kSuffix[] = ".pack";
constexpr char kTempSuffix[] = ".writing";
constexpr int64_t kMaxExecutableBytes = int64_t{1} << 34;
constexpr size_t kPieceBytes = size_t{1} << 20;     // bytes that one task hashes, reads or writes
constexpr auto kAbandoned = std::chrono::hours(1);  // age of a temporary file that is removed

// The header of an entry. After the header the entry has a checksum for each piece, then the
// pieces.
struct Header {
  char magic[8];
  char key[32];
  uint64_t payload_bytes;
  uint64_t checksum;  // checksum of the fields above and of the pieces' checksums
};

struct FileCloser {
  explicit FileCloser(int fd) : fd(fd) {}
  ~FileCloser() {
    if (fd >= 0) close(fd);
  }
  FileCloser(const FileCloser&) = delete;
  FileCloser& operator=(const FileCloser&) = delete;
  const int fd;
};

size_t NumPieces(size_t bytes) { return CeilDiv(bytes, kPieceBytes); }
size_t PieceSize(size_t piece, size_t bytes) {
  return std::min(kPieceBytes, bytes - piece * kPieceBytes);
}

bool WriteAll(int fd, const void* data, size_t bytes, size_t offset) {
  const char* const in = static_cast<const char*>(data);
  for (size_t done = 0; done < bytes;) {
    const ssize_t put = pwrite(fd, in + done, bytes - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    done += static_cast<size_t>(put);
  }
  return true;
}

// Runs task(piece) for each piece. Returns false if a task returned false.
template <class Task>
bool ForPieces(size_t bytes, ThreadTeam* team, const Task& task) {
  std::atomic<bool> ok{true};
  team->ParallelFor(static_cast<int64_t>(NumPieces(bytes)), 1,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t piece = begin; piece < end; ++piece) {
                        if (!ok.load(std::memory_order_relaxed)) return;
                        if (!task(static_cast<size_t>(piece))) ok.store(false);
                      }
                    });
  return ok.load();
}

uint64_t HeaderChecksum(const Header& header, const std::vector<uint64_t>& pieces) {
  const uint64_t seed = XXH3_64bits(&header, offsetof(Header, checksum));
  return XXH3_64bits_withSeed(pieces.data(), pieces.size() * sizeof(uint64_t), seed);
}

// One line: its layout, types, shape and content.
std::string Describe(const StoredMatrix& matrix, ThreadTeam* team, TensorHashes* hashes) {
  std::string line =
      absl::StrCat("matrix ", static_cast<int>(matrix.layout), " ", matrix.rows, " ", matrix.cols,
                   " ", matrix.weight->dtype_name, " ", hashes->Of(*matrix.weight));
  if (matrix.quantized()) {
    absl::StrAppend(
        &line, " ", static_cast<int>(matrix.format.dtype), " ", matrix.format.group_size, " ",
        matrix.scales->dtype_name, " ", hashes->Of(*matrix.scales), " ",
        HashContent(reinterpret_cast<const char*>(matrix.zeros.data()), matrix.zeros.size(), team));
  }
  return line + "\n";
}

absl::StatusOr<std::string> HashExecutable() {
  constexpr char kSelf[] = "/proc/self/exe";
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file,
                   MappedFile::Open(kSelf, {.max_bytes = kMaxExecutableBytes, .roots = {}}));
  return HashText(file->bytes());
}

void RemoveAbandoned(const std::string& dir) {
  std::error_code ignored;
  const auto now = fs::file_time_type::clock::now();
  for (const auto& entry : fs::directory_iterator(dir, ignored)) {
    if (!absl::EndsWith(entry.path().string(), kTempSuffix)) continue;
    const auto written = entry.last_write_time(ignored);
    if (!ignored && now - written > kAbandoned) fs::remove(entry.path(), ignored);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackCache>> PackCache::Open(const PackCacheOptions& options) {
  const auto failed = [&options](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pack cache ", options.dir, " ", what,
                     "; give --pack-cache a folder that this user may write to, or leave it out"));
  };
  std::error_code error;
  if (!fs::exists(options.dir, error)) {
    fs::create_directories(options.dir, error);
    if (!error) fs::permissions(options.dir, fs::perms::owner_all, error);
    if (error) return failed(absl::StrCat("cannot be created: ", error.message()));
  }
  if (!fs::is_directory(options.dir, error)) return failed("is not a folder");
  if (access(options.dir.c_str(), R_OK | W_OK | X_OK) != 0) return failed("is not writable");
  ASSIGN_OR_RETURN(std::string build, HashExecutable());
  RemoveAbandoned(options.dir);
  return std::unique_ptr<PackCache>(new PackCache(options, std::move(build)));
}

std::string PackCache::KeyOf(const Backend& backend, const std::vector<StoredMatrix>& parts,
                             const WeightFormat& format, bool interleave_gate, ThreadTeam* team,
                             TensorHashes* hashes) const {
  // The format's activations do not change the packed bytes.
  std::string record =
      absl::StrCat(build_, "\n", backend.name(), "\n", static_cast<int>(format.dtype), " ",
                   format.group_size, " ", static_cast<int>(format.asymmetric), " ",
                   format.rotation, " ", static_cast<int>(interleave_gate), "\n");
  for (const StoredMatrix& part : parts) record += Describe(part, team, hashes);
  return HashText(record);
}

std::string PackCache::PathOf(const std::string& key) const {
  return absl::StrCat(options_.dir, "/", key, kSuffix);
}

std::unique_ptr<PackedWeight> PackCache::Find(
    Backend* backend, const std::vector<StoredMatrix>& parts, const WeightFormat& format,
    bool interleave_gate, ThreadTeam* team,
    const std::function<std::unique_ptr<PackedWeight>()>& pack, TensorHashes* hashes) {
  TensorHashes own_hashes(team);
  if (hashes == nullptr) hashes = &own_hashes;
  const std::string key = KeyOf(*backend, parts, format, interleave_gate, team, hashes);
  std::vector<WeightView> shapes;
  shapes.reserve(parts.size());
  for (const StoredMatrix& part : parts) shapes.push_back(ShapeOf(part));
  std::unique_ptr<PackedWeight> weight;
  if (access(PathOf(key).c_str(), F_OK) == 0) {
    weight = backend->Restore(shapes, format, interleave_gate, [&](char* packed, size_t bytes) {
      return Read(key, team, packed, bytes);
    });
  }
  if (weight != nullptr) {
    ++stats_.taken;
    used_.insert(key);
    return weight;
  }
  weight = pack();
  ++stats_.packed;
  if (weight == nullptr || !weight->restorable()) return weight;
  TensorHashes after_packing(team);
  if (KeyOf(*backend, parts, format, interleave_gate, team, &after_packing) == key) {
    Write(key, team, *weight);
  }
  return weight;
}

bool PackCache::Read(const std::string& key, ThreadTeam* team, char* packed, size_t bytes) {
  const std::string path = PathOf(key);
  const size_t num_pieces = NumPieces(bytes);
  const auto payload_begin = static_cast<int64_t>(sizeof(Header) + num_pieces * sizeof(uint64_t));
  const int64_t entry_bytes = payload_begin + static_cast<int64_t>(bytes);
  constexpr int64_t kAnySize = std::numeric_limits<int64_t>::max();
  const auto file = ForeignFile::Open(path, {.max_bytes = kAnySize, .roots = {}});
  if (!file.ok()) return false;  // e.g. another user's entry, which this process may not read
  const auto read = [&file](size_t offset, size_t size, void* out) {
    const auto begin = static_cast<int64_t>(offset);
    return file->ReadAt(begin, static_cast<int64_t>(size), static_cast<char*>(out)).ok();
  };
  Header header;
  std::vector<uint64_t> pieces(num_pieces);
  const bool believed =
      file->size() == entry_bytes && read(0, sizeof(header), &header) &&
      read(sizeof(header), pieces.size() * sizeof(uint64_t), pieces.data()) &&
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0 &&
      std::memcmp(header.key, key.data(), sizeof(header.key)) == 0 &&
      header.payload_bytes == bytes && header.checksum == HeaderChecksum(header, pieces) &&
      ForPieces(bytes, team, [&](size_t piece) {
        char* const out = packed + piece * kPieceBytes;
        const size_t size = PieceSize(piece, bytes);
        return read(static_cast<size_t>(payload_begin) + piece * kPieceBytes, size, out) &&
               XXH3_64bits(out, size) == pieces[piece];
      });
  if (!believed) {
    ++stats_.damaged;
    TLOG_WARN("{}: this entry of the pack cache is damaged; it is written again", path);
    unlink(path.c_str());
    return false;
  }
  futimens(file->fd(), nullptr);  // sets the time of the entry's last use
  return true;
}

bool PackCache::MakeRoom(int64_t bytes) {
  struct Entry {
    fs::file_time_type used_at;
    int64_t bytes;
    fs::path path;
  };
  std::vector<Entry> removable;
  int64_t total = bytes;
  int64_t kept = bytes;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(options_.dir, error)) {
    if (item.path().extension() != kSuffix) continue;
    Entry entry{item.last_write_time(error), static_cast<int64_t>(item.file_size(error)),
                item.path()};
    if (error) continue;  // another process has removed it
    total += entry.bytes;
    if (used_.count(entry.path.stem().string()) != 0) {
      kept += entry.bytes;
    } else {
      removable.push_back(std::move(entry));
    }
  }
  if (kept > options_.max_bytes) return false;
  std::sort(removable.begin(), removable.end(),
            [](const Entry& a, const Entry& b) { return a.used_at < b.used_at; });
  for (const Entry& entry : removable) {
    if (total <= options_.max_bytes) break;
    if (fs::remove(entry.path, error)) ++stats_.evicted;
    total -= entry.bytes;
  }
  return true;
}

void PackCache::Write(const std::string& key, ThreadTeam* team, const PackedWeight& weight) {
  const size_t bytes = weight.bytes();
  const size_t num_pieces = NumPieces(bytes);
  const size_t payload_begin = sizeof(Header) + num_pieces * sizeof(uint64_t);
  if (!MakeRoom(static_cast<int64_t>(payload_begin + bytes))) return;
  const std::string temp =
      absl::StrCat(options_.dir, "/", key, ".", getpid(), ".", num_written_++, kTempSuffix);
  bool written = false;
  {
    const FileCloser file(open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    Header header = {};
    std::vector<uint64_t> pieces(num_pieces);
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    std::memcpy(header.key, key.data(), sizeof(header.key));
    header.payload_bytes = bytes;
    written = file.fd >= 0 && ForPieces(bytes, team, [&](size_t piece) {
                const size_t size = PieceSize(piece, bytes);
                const std::unique_ptr<char[]> in(new char[size]);
                weight.ReadPacked(piece * kPieceBytes, size, in.get());
                pieces[piece] = XXH3_64bits(in.get(), size);
                return WriteAll(file.fd, in.get(), size, payload_begin + piece * kPieceBytes);
              });
    header.checksum = HeaderChecksum(header, pieces);
    written = written && WriteAll(file.fd, &header, sizeof(header), 0) &&
              WriteAll(file.fd, pieces.data(), pieces.size() * sizeof(uint64_t), sizeof(header));
  }
  if (written && std::rename(temp.c_str(), PathOf(key).c_str()) == 0) {
    ++stats_.stored;
    used_.insert(key);
    return;
  }
  TLOG_WARN("{}: cannot be written: {}", temp, std::strerror(errno));
  unlink(temp.c_str());
}

}  // namespace tessera
