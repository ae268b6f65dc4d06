// Reads safetensors files by mapping them: a single file or the shards of a model folder. The
// header is checked against the file: every tensor lies inside the file, its byte count follows
// from its shape and type, and tensors neither overlap nor leave holes. Tensors point into the
// mapping, which the Checkpoint owns. Immutable after opening; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/types.h"

namespace tessera {

struct StoredTensor {
  std::string dtype_name;      // type as the file spells it
  std::optional<DType> dtype;  // set for F32, F16 and BF16, the types that float weights may have
  std::vector<int64_t> shape;  // the tensor's bytes fit the file
  const char* data = nullptr;  // may be unaligned
  int64_t num_bytes = 0;
  std::string file;  // path of the tensor's file, for messages

  std::string ShapeString() const;  // "[2, 3]"
};

// Tensors by name.
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr int64_t kMaxSafetensorsBytes = int64_t{4} << 40;  // of a file that is mapped

// Checks the bytes of a whole file and lists its tensors. Errors name `file` and the tensor.
absl::StatusOr<StoredTensors> ParseSafetensors(const std::string& file, absl::string_view bytes);

// Reads the header of a file and checks it as ParseSafetensors does. The tensors have no data.
absl::StatusOr<StoredTensors> ReadSafetensorsHeader(const std::string& path,
                                                    const ForeignFileOptions& options);

// The name that a tensor of a multimodal model's language model has in a model of text alone, for
// the names that older and newer versions of transformers write: "model.layers..." for
// "language_model.model.layers..." and "model.language_model.layers...". nullopt: the name is none
// of these.
std::optional<std::string> NameInTextModel(absl::string_view name);
// The inverse: the names of a multimodal model that NameInTextModel() turns into `name`.
std::vector<std::string> NamesInMultimodalModel(absl::string_view name);

class Checkpoint final {
 public:
  // Maps one file.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& path);
  // Maps `dir`/model.safetensors, or the shards that `dir`/model.safetensors.index.json lists. Of a
  // multimodal model, the tensors of the language model are taken and renamed as in a model of text
  // alone ("model.layers..."); the others are left out.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenDir(const std::string& dir);

  // OK, or an error that names a mapped file which changed since it was opened. The bytes of its
  // tensors were then zeros or other bytes than before (mapped_file.h), so whoever read tensors
  // asks before the result is used.
  absl::Status CheckIntact() const;

  // The tensor with this name; nullptr when there is none.
  const StoredTensor* Find(absl::string_view name) const;
  const StoredTensors& tensors() const { return tensors_; }
  // The tensors of a multimodal model's other parts, which OpenDir leaves out.
  int64_t num_left_out() const { return num_left_out_; }

  // Tells the operating system that the tensor's bytes are needed soon, so that it reads ahead.
  void Prefetch(const StoredTensor& tensor) const;

  // Tells the operating system that the tensor's bytes are not needed for now. The memory pages of
  // the bytes stop being resident; a later access reads the bytes from the file again.
  void Drop(const StoredTensor& tensor) const;

 private:
  Checkpoint() = default;
  absl::Status Add(const std::string& path);
  absl::Status TakeLanguageModel();

  std::vector<std::unique_ptr<MappedFile>> files_;
  StoredTensors tensors_;
  int64_t num_left_out_ = 0;
};

}  // namespace tessera
