#include "kernels/model/checkpoint/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/paths.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/json_file.h"
#include "kernels/model/checkpoint/model_folder.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxDims = 8;
constexpr size_t kMaxShownName = 200;
// Prefixes of the language model's tensors in a multimodal model and in a model of text alone.
constexpr std::pair<absl::string_view, absl::string_view> kNestedPrefixes[] = {
    {"language_model.model.", "model."},
    {"language_model.lm_head.", "lm_head."},
    {"model.language_model.", "model."},
};

struct StoredType {
  const char* name;
  int64_t bytes;
  std::optional<DType> dtype;
};

constexpr StoredType kTypes[] = {
    {"F32", 4, DType::kF32}, {"F16", 2, DType::kF16}, {"BF16", 2, DType::kBF16},
    {"F64", 8, {}},          {"I64", 8, {}},          {"U64", 8, {}},
    {"I32", 4, {}},          {"U32", 4, {}},          {"I16", 2, {}},
    {"U16", 2, {}},          {"I8", 1, {}},           {"U8", 1, {}},
    {"BOOL", 1, {}},         {"F8_E4M3", 1, {}},      {"F8_E5M2", 1, {}},
};

const StoredType* FindType(const std::string& name) {
  for (const StoredType& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

// Parses the header's JSON as a stream of events, so that a hostile header cannot build a large
// tree in memory. The outer object has one object for each tensor (dtype, shape, data_offsets) and
// the object __metadata__ with strings.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  struct Entry {
    std::string name;
    std::string dtype;
    std::vector<uint64_t> shape;
    std::vector<uint64_t> offsets;
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
  };

  std::vector<Entry>& entries() { return entries_; }
  const std::string& error() const { return error_; }
  const std::string& tensor() const { return tensor_; }

  bool null() override { return Fail("has a null value"); }
  bool boolean(bool) override { return Fail("has a boolean value"); }
  bool number_integer(number_integer_t) override { return Fail("has a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Fail("has a number that is not an integer");
  }
  bool binary(binary_t&) override { return Fail("has a binary value"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Fail("has a number where none is expected");
    std::vector<uint64_t>& list = key_ == "shape" ? entries_.back().shape : entries_.back().offsets;
    if (list.size() >= kMaxDims) return Fail(absl::StrCat("has too many numbers in ", key_));
    list.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || in_array_ || key_ != "dtype")
      return Fail("has a string that is not its dtype");
    if (std::exchange(entries_.back().has_dtype, true)) return Fail("states its dtype twice");
    entries_.back().dtype = value;
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ == 2 || in_array_) return Fail("has an object inside");
    ++depth_;
    if (depth_ == 2 && !in_metadata_) entries_.emplace_back().name = tensor_;
    return true;
  }

  bool end_object() override {
    --depth_;
    in_metadata_ = false;
    return true;
  }

  bool key(string_t& value) override {
    key_ = value;
    if (depth_ == 2) return true;
    tensor_ = value;
    in_metadata_ = value == "__metadata__";
    if (!names_.insert(value).second) return Fail("is there twice");
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata_) return Fail("is or has a list in a wrong place");
    Entry& entry = entries_.back();
    in_array_ = true;
    if (key_ == "shape") return !std::exchange(entry.has_shape, true) || Fail("has two shapes");
    if (key_ != "data_offsets") return Fail(absl::StrCat("has an unknown list ", key_));
    return !std::exchange(entry.has_offsets, true) || Fail("has data_offsets twice");
  }

  bool end_array() override {
    in_array_ = false;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    if (error_.empty()) error_ = absl::StrCat("the header is not valid JSON at byte ", position);
    tensor_.clear();
    return false;
  }

 private:
  bool Fail(const std::string& message) {
    error_ = message;
    return false;
  }

  std::vector<Entry> entries_;
  std::set<std::string> names_;
  std::string error_;
  std::string tensor_;  // key of the outer object whose value the parser reads
  std::string key_;
  int depth_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
};

absl::Status Error(const std::string& file, const std::string& tensor, absl::string_view message) {
  if (tensor.empty()) return absl::InvalidArgumentError(absl::StrCat(file, ": ", message));
  const std::string shown =
      absl::Utf8SafeCHexEscape(absl::string_view(tensor).substr(0, kMaxShownName));
  return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", shown, " ", message));
}

// Bytes of a tensor of this shape; nullopt when they exceed `limit`.
std::optional<uint64_t> ShapeBytes(const std::vector<uint64_t>& shape, uint64_t element,
                                   uint64_t limit) {
  // A dimension of 0 makes the tensor empty for any size of the others.
  if (std::find(shape.begin(), shape.end(), 0u) != shape.end()) return 0;
  uint64_t bytes = element;
  for (const uint64_t size : shape) {
    if (size > limit / bytes) return std::nullopt;
    bytes *= size;
  }
  return bytes <= limit ? std::optional<uint64_t>(bytes) : std::nullopt;
}

// What a file is whose first bytes, as the length of a header, are absurd; null if not known.
const char* OtherFormat(absl::string_view bytes) {
  if (absl::StartsWith(bytes, "GGUF")) return "a GGUF file";
  if (absl::StartsWith(bytes, "PK\x03\x04")) return "a PyTorch file";
  return absl::StartsWith(bytes, "<") ? "a web page" : nullptr;
}

// `data` has the bytes after the header; it is null if only the header was read.
absl::StatusOr<StoredTensor> CheckEntry(const std::string& file, const HeaderHandler::Entry& entry,
                                        const char* data, uint64_t data_bytes) {
  if (!entry.has_dtype || !entry.has_shape || !entry.has_offsets) {
    return Error(file, entry.name, "must have dtype, shape and data_offsets");
  }
  const StoredType* const type = FindType(entry.dtype);
  if (type == nullptr) {
    return Error(file, entry.name,
                 "has a dtype that is not known; weights may be F32, F16 or BF16");
  }
  if (entry.offsets.size() != 2 || entry.offsets[0] > entry.offsets[1]) {
    return Error(file, entry.name, "must have data_offsets [begin, end] with begin <= end");
  }
  const uint64_t begin = entry.offsets[0];
  const uint64_t end = entry.offsets[1];
  if (end > data_bytes) {
    return Error(file, entry.name,
                 absl::StrCat("ends at data byte ", end, " but the file has only ", data_bytes,
                              "; the file is truncated or its header lies"));
  }
  const std::optional<uint64_t> bytes = ShapeBytes(entry.shape, type->bytes, data_bytes);
  if (bytes != end - begin) {
    return Error(file, entry.name,
                 absl::StrCat("has data_offsets of ", end - begin, " bytes, which is not what ",
                              entry.dtype, " [", absl::StrJoin(entry.shape, ", "), "] takes"));
  }
  StoredTensor tensor;
  tensor.dtype_name = entry.dtype;
  tensor.dtype = type->dtype;
  for (const uint64_t size : entry.shape) {
    // Only a tensor with a dimension of 0 can have another dimension this large here.
    if (size > INT64_MAX) return Error(file, entry.name, "has an absurd shape");
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  if (data != nullptr) tensor.data = data + begin;
  tensor.num_bytes = static_cast<int64_t>(end - begin);
  tensor.file = file;
  return tensor;
}

// Checks that the tensors cover the file's data exactly once: without overlaps, without holes and
// up to the end.
absl::Status CheckCoverage(const std::string& file, std::vector<HeaderHandler::Entry>* entries,
                           uint64_t data_bytes) {
  std::sort(entries->begin(), entries->end(),
            [](const auto& a, const auto& b) { return a.offsets < b.offsets; });
  uint64_t covered = 0;
  for (const HeaderHandler::Entry& entry : *entries) {
    const uint64_t begin = entry.offsets[0];
    if (begin < covered) return Error(file, entry.name, "overlaps the tensor before it");
    if (begin > covered) {
      return Error(file, entry.name,
                   absl::StrCat("leaves a hole of ", begin - covered, " bytes before it"));
    }
    covered = entry.offsets[1];
  }
  if (covered == data_bytes) return absl::OkStatus();
  return Error(file, "", absl::StrCat("has ", data_bytes - covered, " bytes behind its tensors"));
}

}  // namespace

std::string StoredTensor::ShapeString() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

namespace {

// The number of bytes of the JSON header. `start` has the first bytes of a file of `file_bytes`.
absl::StatusOr<uint64_t> HeaderBytes(const std::string& file, absl::string_view start,
                                     uint64_t file_bytes) {
  if (file_bytes < kLengthBytes) {
    return Error(file, "", "is too short for a safetensors file");
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= static_cast<uint64_t>(static_cast<unsigned char>(start[i])) << (8 * i);
  }
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    if (const char* const other = OtherFormat(start); other != nullptr) {
      return Error(file, "",
                   absl::StrCat("is ", other, " and not a safetensors file; download it again"));
    }
    return Error(file, "",
                 absl::StrCat("states a header of ", header_bytes, " bytes; at most ",
                              kMaxSafetensorsHeaderBytes, " are allowed"));
  }
  if (header_bytes > file_bytes - kLengthBytes) {
    return Error(file, "",
                 absl::StrCat("states a header of ", header_bytes, " bytes but has only ",
                              file_bytes - kLengthBytes, "; the file is truncated"));
  }
  return header_bytes;
}

absl::StatusOr<StoredTensors> ParseHeader(const std::string& file, absl::string_view header,
                                          const char* data, uint64_t data_bytes) {
  HeaderHandler handler;
  if (header.empty() || header[0] != '{') {
    return Error(file, "", "has a header that is not a JSON object");
  }
  if (!Json::sax_parse(header.begin(), header.end(), &handler)) {
    return Error(file, handler.tensor(), handler.error());
  }
  StoredTensors tensors;
  for (const HeaderHandler::Entry& entry : handler.entries()) {
    ASSIGN_OR_RETURN(StoredTensor tensor, CheckEntry(file, entry, data, data_bytes));
    tensors.emplace(entry.name, std::move(tensor));
  }
  RETURN_IF_ERROR(CheckCoverage(file, &handler.entries(), data_bytes));
  return tensors;
}

}  // namespace

absl::StatusOr<StoredTensors> ParseSafetensors(const std::string& file, absl::string_view bytes) {
  ASSIGN_OR_RETURN(const uint64_t header_bytes, HeaderBytes(file, bytes, bytes.size()));
  const absl::string_view data = bytes.substr(kLengthBytes + header_bytes);
  return ParseHeader(file, bytes.substr(kLengthBytes, header_bytes), data.data(), data.size());
}

absl::StatusOr<StoredTensors> ReadSafetensorsHeader(const std::string& path,
                                                    const ForeignFileOptions& options) {
  ASSIGN_OR_RETURN(const ForeignFile file, ForeignFile::Open(path, options));
  const auto file_bytes = static_cast<uint64_t>(file.size());
  std::string start(std::min<uint64_t>(kLengthBytes, file_bytes), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, static_cast<int64_t>(start.size()), start.data()));
  ASSIGN_OR_RETURN(const uint64_t header_bytes, HeaderBytes(path, start, file_bytes));
  std::string header(header_bytes, '\0');
  RETURN_IF_ERROR(file.ReadAt(kLengthBytes, static_cast<int64_t>(header_bytes), header.data()));
  return ParseHeader(path, header, nullptr, file_bytes - kLengthBytes - header_bytes);
}

absl::Status Checkpoint::Add(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file,
                   MappedFile::Open(path, {.max_bytes = kMaxSafetensorsBytes, .roots = {}}));
  absl::StatusOr<StoredTensors> tensors = ParseSafetensors(path, file->bytes());
  RETURN_IF_ERROR(file->CheckIntact());
  RETURN_IF_ERROR(tensors.status());
  for (auto& [name, tensor] : *tensors) {
    const auto [it, inserted] = tensors_.emplace(name, std::move(tensor));
    if (!inserted) return Error(path, name, absl::StrCat("is also in ", it->second.file));
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenFile(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  RETURN_IF_ERROR(checkpoint->Add(path));
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenDir(const std::string& dir) {
  const std::string single = absl::StrCat(dir, "/model.safetensors");
  if (PathExists(single)) {
    ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, OpenFile(single));
    RETURN_IF_ERROR(checkpoint->TakeLanguageModel());
    return checkpoint;
  }
  const std::string index_name = single + ".index.json";
  if (!PathExists(index_name)) return NoSafetensors(dir);
  ASSIGN_OR_RETURN(const JsonFile index, JsonFile::Open(index_name));
  const std::optional<JsonFile> map = index.Object("weight_map");
  if (!map.has_value()) index.Fail("weight_map", "must map tensors to files");
  RETURN_IF_ERROR(index.status());
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const std::string& name : map->Keys()) {
    const std::string shard = map->String(name, "");
    if (shard.empty() || shard.find('/') != std::string::npos) {
      map->Fail(name, "must be the name of a file in the same folder");
      break;
    }
    shard_of[name] = shard;
    shards.insert(shard);
  }
  RETURN_IF_ERROR(map->status());
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  for (const std::string& shard : shards) {
    RETURN_IF_ERROR(checkpoint->Add(absl::StrCat(dir, "/", shard)));
  }
  for (const auto& [name, shard] : shard_of) {
    const StoredTensor* const tensor = checkpoint->Find(name);
    if (tensor != nullptr && tensor->file == absl::StrCat(dir, "/", shard)) continue;
    return Error(index_name, name, absl::StrCat("is not in ", shard, " as the index says"));
  }
  RETURN_IF_ERROR(checkpoint->TakeLanguageModel());
  return checkpoint;
}

std::optional<std::string> NameInTextModel(absl::string_view name) {
  for (const auto& [nested, text] : kNestedPrefixes) {
    if (absl::ConsumePrefix(&name, nested)) return absl::StrCat(text, name);
  }
  return std::nullopt;
}

std::vector<std::string> NamesInMultimodalModel(absl::string_view name) {
  std::vector<std::string> names;
  for (const auto& [nested, text] : kNestedPrefixes) {
    absl::string_view rest = name;
    if (absl::ConsumePrefix(&rest, text)) names.push_back(absl::StrCat(nested, rest));
  }
  return names;
}

absl::Status Checkpoint::TakeLanguageModel() {
  const auto is_nested = [](const auto& entry) { return NameInTextModel(entry.first).has_value(); };
  if (std::none_of(tensors_.begin(), tensors_.end(), is_nested)) return absl::OkStatus();
  StoredTensors taken;
  for (auto& [name, tensor] : tensors_) {
    // The newer versions of transformers have the head beside the language model.
    const std::string new_name =
        NameInTextModel(name).value_or(absl::StartsWith(name, "lm_head.") ? name : "");
    if (new_name.empty()) continue;
    const std::string file = tensor.file;
    if (!taken.emplace(new_name, std::move(tensor)).second) {
      return Error(file, name, absl::StrCat("is a second ", new_name, " of the language model"));
    }
  }
  num_left_out_ = static_cast<int64_t>(tensors_.size() - taken.size());
  tensors_ = std::move(taken);
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckIntact() const {
  for (const auto& file : files_) RETURN_IF_ERROR(file->CheckIntact());
  return absl::OkStatus();
}

const StoredTensor* Checkpoint::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

void Checkpoint::Prefetch(const StoredTensor& tensor) const {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.data) % page);
  madvise(const_cast<char*>(tensor.data) - before, static_cast<size_t>(tensor.num_bytes + before),
          MADV_WILLNEED);
}

void Checkpoint::Drop(const StoredTensor& tensor) const {
  // Only memory pages that lie entirely inside the tensor are dropped.
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.data) % page);
  const int64_t skip = misplaced == 0 ? 0 : page - misplaced;
  const int64_t length = (tensor.num_bytes - skip) / page * page;
  if (length > 0) madvise(const_cast<char*>(tensor.data) + skip, length, MADV_DONTNEED);
}

}  // namespace tessera
