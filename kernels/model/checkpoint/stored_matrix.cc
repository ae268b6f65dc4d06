#include "kernels/model/checkpoint/stored_matrix.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kUnpackRows = 64;  // outputs that one task unpacks
constexpr char kDtypeI32[] = "I32";
constexpr char kDtypeI8[] = "I8";
// Index of output n % 8 among the fields of an AWQ word.
constexpr int kAwqField[8] = {0, 4, 1, 5, 2, 6, 3, 7};

int CodesPerWord(int bits) { return 32 / bits; }
int BitsOf(const WeightFormat& format) { return format.dtype == DType::kI8 ? 8 : 4; }

// A tensor may start at any address, so words are copied.
uint32_t LoadWord(const StoredTensor& tensor, int64_t index) {
  uint32_t word;
  std::memcpy(&word, tensor.data + index * kWordBytes, sizeof(word));
  return word;
}

uint8_t Field(uint32_t word, int64_t index, int bits) {
  return static_cast<uint8_t>(word >> (index * bits) & ((1u << bits) - 1));
}

absl::Status TensorError(const StoredTensor& tensor, const std::string& name,
                         absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " ", message));
}

// Finds and checks the tensors of one module.
class Finder final {
 public:
  Finder(const ModelSpec& spec, const Checkpoint& checkpoint, const std::string& name,
         StoredMatrix* matrix)
      : spec_(spec.quantization), checkpoint_(checkpoint), name_(name), matrix_(matrix) {
    module_ = name.substr(0, name.rfind('.') + 1);
  }

  absl::Status Find() {
    matrix_->layout = FindLayout();
    matrix_->weight = checkpoint_.Find(WeightName());
    if (!matrix_->found()) return absl::OkStatus();
    matrix_->tensor_names.push_back(WeightName());
    RETURN_IF_ERROR(FindGrid());
    if (!matrix_->quantized()) return CheckFloats();
    if (matrix_->cols > kMaxQuantizedCols) {
      return TensorError(*matrix_->weight, WeightName(),
                         absl::StrCat("has ", matrix_->cols, " inputs; quantised weights may have ",
                                      kMaxQuantizedCols));
    }
    ASSIGN_OR_RETURN(matrix_->scales, FindPart(ScaleName()));
    RETURN_IF_ERROR(CheckGrid());
    RETURN_IF_ERROR(CheckShapeTensor());
    RETURN_IF_ERROR(CheckGroupIndex());
    RETURN_IF_ERROR(FindZeros());
    return CheckBias();
  }

 private:
  MatrixLayout FindLayout() const {
    switch (spec_.method) {
      case QuantMethod::kGptq:
        return Has("qweight") ? MatrixLayout::kGptq : MatrixLayout::kFloat;
      case QuantMethod::kAwq:
        return Has("qweight") ? MatrixLayout::kAwq : MatrixLayout::kFloat;
      case QuantMethod::kCompressedTensors:
        if (Has("weight_packed")) return MatrixLayout::kPackQuantized;
        return Has("weight_scale") ? MatrixLayout::kIntQuantized : MatrixLayout::kFloat;
      case QuantMethod::kNone:
        break;
    }
    return MatrixLayout::kFloat;
  }

  bool Has(const char* part) const {
    return checkpoint_.Find(absl::StrCat(module_, part)) != nullptr;
  }
  // Whether the first dimension of scales and zero points is the group.
  bool is_transposed() const {
    return matrix_->layout == MatrixLayout::kGptq || matrix_->layout == MatrixLayout::kAwq;
  }
  std::string WeightName() const {
    if (is_transposed()) return module_ + "qweight";
    return matrix_->layout == MatrixLayout::kPackQuantized ? module_ + "weight_packed" : name_;
  }
  std::string ScaleName() const { return module_ + (is_transposed() ? "scales" : "weight_scale"); }
  std::string ZeroName() const {
    return module_ + (is_transposed() ? "qzeros" : "weight_zero_point");
  }
  std::string GroupIndexName() const {
    return module_ + (is_transposed() ? "g_idx" : "weight_g_idx");
  }

  // Finds a tensor that a quantised module must have.
  absl::StatusOr<const StoredTensor*> FindPart(const std::string& name) {
    const StoredTensor* const tensor = checkpoint_.Find(name);
    if (tensor == nullptr) {
      return TensorError(*matrix_->weight, WeightName(),
                         absl::StrCat("needs tensor ", name, ", which the checkpoint lacks"));
    }
    matrix_->tensor_names.push_back(name);
    return tensor;
  }

  static absl::Status CheckShape(const StoredTensor& tensor, const std::string& name,
                                 const std::vector<int64_t>& shape) {
    if (tensor.shape == shape) return absl::OkStatus();
    return TensorError(
        tensor, name,
        absl::StrCat("has shape ", tensor.ShapeString(), " but config.json makes it [",
                     absl::StrJoin(shape, ", "), "]"));
  }
  static absl::Status CheckType(const StoredTensor& tensor, const std::string& name,
                                const char* type) {
    if (tensor.dtype_name == type) return absl::OkStatus();
    return TensorError(tensor, name,
                       absl::StrCat("is stored as ", tensor.dtype_name, "; must be ", type));
  }

  absl::Status CheckFloats() const {
    const StoredTensor& tensor = *matrix_->weight;
    if (!tensor.dtype.has_value()) {
      return TensorError(
          tensor, name_,
          absl::StrCat("is stored as ", tensor.dtype_name, "; supported are F32, F16 and BF16"));
    }
    return CheckShape(tensor, name_, {matrix_->rows, matrix_->cols});
  }

  // Shape of the codes' tensor; nullopt when the grid does not divide the matrix.
  std::optional<std::vector<int64_t>> WeightShape(const QuantGrid& grid) const {
    const int64_t codes = CodesPerWord(grid.bits);
    const int64_t rows = matrix_->rows;
    const int64_t cols = matrix_->cols;
    const bool whole_groups = grid.group_size == 0 || cols % grid.group_size == 0;
    switch (matrix_->layout) {
      case MatrixLayout::kGptq:
        if (rows % codes != 0 || cols % codes != 0) return std::nullopt;
        return std::vector<int64_t>{cols / codes, rows};
      case MatrixLayout::kAwq:
        if (rows % codes != 0 || !whole_groups) return std::nullopt;
        return std::vector<int64_t>{cols, rows / codes};
      case MatrixLayout::kPackQuantized:
        if (!whole_groups) return std::nullopt;
        return std::vector<int64_t>{rows, CeilDiv(cols, codes)};
      case MatrixLayout::kIntQuantized:
        if (!whole_groups || grid.bits != 8) return std::nullopt;
        return std::vector<int64_t>{rows, cols};
      case MatrixLayout::kFloat:
        break;
    }
    return std::nullopt;
  }

  std::vector<int64_t> ScaleShape(const WeightFormat& format) const {
    const int64_t groups = format.NumGroups(matrix_->cols);
    if (is_transposed()) return {groups, matrix_->rows};
    return {matrix_->rows, groups};
  }

  // Finds the grid to which the configuration quantises the module. The configuration of
  // compressed-tensors and the tensors must agree whether the module is quantised.
  absl::Status FindGrid() {
    if (spec_.method != QuantMethod::kCompressedTensors) {
      if (matrix_->quantized()) grid_ = &spec_.grids[0];
      return absl::OkStatus();
    }
    constexpr char kConfig[] = "quantization_config of config.json";
    const absl::string_view module = absl::StripSuffix(module_, ".");
    const auto it = spec_.grid_of.find(module);
    const bool is_matched = it != spec_.grid_of.end();
    const bool is_ignored = is_matched && it->second < 0;
    if (is_matched && !is_ignored) grid_ = &spec_.grids[static_cast<size_t>(it->second)];
    if (matrix_->quantized() == (grid_ != nullptr)) return absl::OkStatus();
    if (grid_ != nullptr) {
      const std::string& group = spec_.group_names[static_cast<size_t>(it->second)];
      return TensorError(*matrix_->weight, WeightName(),
                         absl::StrCat("is stored as ", matrix_->weight->dtype_name,
                                      ", but the config group ", group, " quantises its module; ",
                                      "add ", module, " to ignore in ", kConfig));
    }
    return TensorError(
        *matrix_->weight, WeightName(),
        is_ignored ? absl::StrCat("is quantised, but ", kConfig, " ignores its module; take ",
                                  module, " out of ignore")
                   : absl::StrCat("is quantised, but no config group has its module; add ", module,
                                  " to the targets of its config group in ", kConfig));
  }

  // Checks the tensors' types and shapes against the grid.
  absl::Status CheckGrid() {
    const StoredTensor& weight = *matrix_->weight;
    const bool is_int = matrix_->layout == MatrixLayout::kIntQuantized;
    RETURN_IF_ERROR(CheckType(weight, WeightName(), is_int ? kDtypeI8 : kDtypeI32));
    if (!matrix_->scales->dtype.has_value()) {
      return TensorError(*matrix_->scales, ScaleName(),
                         absl::StrCat("is stored as ", matrix_->scales->dtype_name,
                                      "; supported are F32, F16 and BF16"));
    }
    const std::optional<std::vector<int64_t>> shape = WeightShape(*grid_);
    WeightFormat format(grid_->bits == 8 ? DType::kI8 : DType::kI4,
                        grid_->group_size >= matrix_->cols ? 0 : grid_->group_size);
    if (!grid_->int8_activations) format = format.WithBF16Activations();
    if (weight.shape == shape && matrix_->scales->shape == ScaleShape(format)) {
      matrix_->format = format;
      return absl::OkStatus();
    }
    return TensorError(
        weight, WeightName(),
        absl::StrCat("has shape ", weight.ShapeString(), " with scales ",
                     matrix_->scales->ShapeString(), " but config.json makes it ",
                     shape.has_value()
                         ? absl::StrCat("[", absl::StrJoin(*shape, ", "), "] with scales [",
                                        absl::StrJoin(ScaleShape(format), ", "), "]")
                         : absl::StrCat("a quantised matrix of ", matrix_->rows, " x ",
                                        matrix_->cols, ", which its groups do not divide")));
  }

  // compressed-tensors stores the matrix's shape in a tensor, which must agree with config.json.
  absl::Status CheckShapeTensor() {
    if (matrix_->layout != MatrixLayout::kPackQuantized) return absl::OkStatus();
    const std::string name = module_ + "weight_shape";
    ASSIGN_OR_RETURN(const StoredTensor* const tensor, FindPart(name));
    const int64_t bytes = tensor->dtype_name == "I64" ? 8 : kWordBytes;
    if (bytes == kWordBytes) RETURN_IF_ERROR(CheckType(*tensor, name, kDtypeI32));
    RETURN_IF_ERROR(CheckShape(*tensor, name, {2}));
    for (int i = 0; i < 2; ++i) {
      int64_t size = 0;
      std::memcpy(&size, tensor->data + i * bytes, static_cast<size_t>(bytes));
      if (size == (i == 0 ? matrix_->rows : matrix_->cols)) continue;
      return TensorError(*tensor, name,
                         absl::StrCat("does not hold [", matrix_->rows, ", ", matrix_->cols,
                                      "], which config.json makes of the matrix"));
    }
    return absl::OkStatus();
  }

  // Checks that each group consists of consecutive inputs, because a packed row has one scale for a
  // run of inputs.
  absl::Status CheckGroupIndex() {
    const std::string name = GroupIndexName();
    const StoredTensor* const index = checkpoint_.Find(name);
    const int64_t group = matrix_->format.group_size;
    if (index == nullptr) {
      if (!grid_->needs_group_index || group == 0) return absl::OkStatus();
      return FindPart(name).status();
    }
    matrix_->tensor_names.push_back(name);
    RETURN_IF_ERROR(CheckType(*index, name, kDtypeI32));
    RETURN_IF_ERROR(CheckShape(*index, name, {matrix_->cols}));
    // compressed-tensors fills an unused index with -1.
    const bool may_be_unset = matrix_->layout == MatrixLayout::kPackQuantized;
    for (int64_t k = 0; k < matrix_->cols; ++k) {
      const int32_t got = static_cast<int32_t>(LoadWord(*index, k));
      if (may_be_unset && got == -1 && !grid_->needs_group_index) continue;
      const int64_t expected = group == 0 ? 0 : k / group;
      if (got == expected) continue;
      return TensorError(
          *index, name,
          absl::StrCat("puts input ", k, " into group ", got, " instead of ", expected,
                       ": groups of reordered inputs (desc_act, actorder) are not supported; use a "
                       "checkpoint made with desc_act false, static_groups true or actorder "
                       "weight"));
    }
    return absl::OkStatus();
  }

  absl::Status FindZeros() {
    const std::string name = ZeroName();
    const StoredTensor* zeros = checkpoint_.Find(name);
    if (zeros == nullptr && !is_transposed()) return absl::OkStatus();  // symmetric
    if (zeros == nullptr) return FindPart(name).status();
    matrix_->tensor_names.push_back(name);
    matrix_->zeros.resize(
        static_cast<size_t>(matrix_->rows * matrix_->format.NumGroups(matrix_->cols)));
    if (zeros->dtype_name == kDtypeI8 && !is_transposed()) {
      RETURN_IF_ERROR(ReadByteZeros(*zeros, name));
    } else if (matrix_->layout == MatrixLayout::kIntQuantized) {
      RETURN_IF_ERROR(CheckType(*zeros, name, kDtypeI8));
    } else {
      RETURN_IF_ERROR(ReadWordZeros(*zeros, name));
    }
    const int middle = matrix_->format.symmetric_zero();
    matrix_->format.asymmetric = std::any_of(matrix_->zeros.begin(), matrix_->zeros.end(),
                                             [middle](uint8_t zero) { return zero != middle; });
    if (!matrix_->format.asymmetric) matrix_->zeros.clear();
    return absl::OkStatus();
  }

  absl::Status ReadByteZeros(const StoredTensor& tensor, const std::string& name) {
    const int64_t groups = matrix_->format.NumGroups(matrix_->cols);
    RETURN_IF_ERROR(CheckShape(tensor, name, {matrix_->rows, groups}));
    const int middle = matrix_->format.symmetric_zero();
    for (size_t i = 0; i < matrix_->zeros.size(); ++i) {
      const int zero = static_cast<int8_t>(tensor.data[i]) + middle;
      if (zero < 0 || zero > matrix_->format.max_code()) {
        return TensorError(
            tensor, name,
            absl::StrCat("has the zero point ", zero - middle, " at ", i, ", which is not one of ",
                         DTypeName(matrix_->format.dtype)));
      }
      matrix_->zeros[i] = static_cast<uint8_t>(zero);
    }
    return absl::OkStatus();
  }

  absl::Status ReadWordZeros(const StoredTensor& tensor, const std::string& name) {
    const int bits = BitsOf(matrix_->format);
    const int64_t codes = CodesPerWord(bits);
    const int64_t groups = matrix_->format.NumGroups(matrix_->cols);
    const int64_t words = CeilDiv(matrix_->rows, codes);  // words of one group
    RETURN_IF_ERROR(CheckType(tensor, name, kDtypeI32));
    RETURN_IF_ERROR(CheckShape(tensor, name,
                               is_transposed() ? std::vector<int64_t>{groups, words}
                                               : std::vector<int64_t>{words, groups}));
    for (int64_t w = 0; w < words; ++w) {
      for (int64_t g = 0; g < groups; ++g) {
        const uint32_t stored = LoadWord(tensor, is_transposed() ? g * words + w : w * groups + g);
        ASSIGN_OR_RETURN(const uint32_t word, TrueZeros(stored, bits, tensor, name));
        const int64_t end = std::min(codes, matrix_->rows - w * codes);
        for (int64_t i = 0; i < end; ++i) {
          const int64_t field = matrix_->layout == MatrixLayout::kAwq ? kAwqField[i] : i;
          matrix_->zeros[static_cast<size_t>((w * codes + i) * groups + g)] =
              Field(word, field, bits);
        }
      }
    }
    return absl::OkStatus();
  }

  // Adds the 1 that GPTQ's first format subtracts from each zero point of a word.
  absl::StatusOr<uint32_t> TrueZeros(uint32_t word, int bits, const StoredTensor& tensor,
                                     const std::string& name) const {
    if (matrix_->layout != MatrixLayout::kGptq || spec_.gptq_zeros == GptqZeros::kAsTheyAre) {
      return word;
    }
    uint32_t ones = 0;
    for (int i = 0; i < CodesPerWord(bits); ++i) {
      ones |= 1u << (i * bits);
      // A field with all bits set was a zero point of 0, minus one. Whether the subtraction
      // borrowed from the next field depends on the writer. Without such fields no borrow has
      // happened, and the sum has no carries.
      if (spec_.gptq_zeros == GptqZeros::kMinusOneWord) continue;
      if (Field(word, i, bits) != (1 << bits) - 1) continue;
      return TensorError(tensor, name,
                         "has a zero point of 0, whose neighbours checkpoint_format gptq does not "
                         "keep; convert the checkpoint to gptq_v2, or use one made with sym true");
    }
    return word + ones;
  }

  // Old GPTQ writers give every module a bias. A bias of zeros is accepted and ignored.
  absl::Status CheckBias() {
    const std::string name = module_ + "bias";
    const StoredTensor* const bias = checkpoint_.Find(name);
    if (bias == nullptr) return absl::OkStatus();
    const bool zeros =
        std::all_of(bias->data, bias->data + bias->num_bytes, [](char byte) { return byte == 0; });
    if (zeros) matrix_->tensor_names.push_back(name);
    return absl::OkStatus();
  }

  const QuantizationSpec& spec_;
  const Checkpoint& checkpoint_;
  const std::string& name_;
  StoredMatrix* const matrix_;
  const QuantGrid* grid_ = nullptr;  // null: the configuration does not quantise the module
  std::string module_;               // name of the module with its final dot
};

// Writes the first `count` codes of a word to `out`.
void SpreadWord(uint32_t word, int64_t count, int bits, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Field(word, i, bits);
}

// Writes the codes of outputs [begin, end) to `out` [rows, cols].
// REQUIRES: `begin` is a multiple of CodesPerWord().
void UnpackCodes(const StoredMatrix& matrix, int64_t begin, int64_t end, uint8_t* out) {
  const StoredTensor& tensor = *matrix.weight;
  const int bits = BitsOf(matrix.format);
  const int64_t codes = CodesPerWord(bits);
  const int64_t rows = matrix.rows;
  const int64_t cols = matrix.cols;
  switch (matrix.layout) {
    case MatrixLayout::kGptq:
      for (int64_t k = 0; k < cols; k += codes) {
        for (int64_t n = begin; n < end; ++n) {
          SpreadWord(LoadWord(tensor, k / codes * rows + n), codes, bits, out + n * cols + k);
        }
      }
      return;
    case MatrixLayout::kAwq:
      for (int64_t k = 0; k < cols; ++k) {
        for (int64_t n = begin; n < end; ++n) {
          const uint32_t word = LoadWord(tensor, (k * rows + n) / codes);
          out[n * cols + k] = Field(word, kAwqField[n % codes], bits);
        }
      }
      return;
    case MatrixLayout::kPackQuantized:
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t k = 0; k < cols; k += codes) {
          const uint32_t word = LoadWord(tensor, n * CeilDiv(cols, codes) + k / codes);
          SpreadWord(word, std::min(codes, cols - k), bits, out + n * cols + k);
        }
      }
      return;
    case MatrixLayout::kIntQuantized:
      for (int64_t i = begin * cols; i < end * cols; ++i) {
        // Flipping the sign bit adds 128.
        out[i] = static_cast<uint8_t>(static_cast<uint8_t>(tensor.data[i]) ^ 0x80u);
      }
      return;
    case MatrixLayout::kFloat:
      break;
  }
  CHECK(false) << " floats have no codes";
}

// Copies the scales to `out` in the order [rows, groups].
void UnpackScales(const StoredMatrix& matrix, int64_t groups, std::vector<char>* out) {
  const StoredTensor& tensor = *matrix.scales;
  const int64_t bytes = DTypeBytes(*tensor.dtype);
  out->resize(static_cast<size_t>(tensor.num_bytes));
  if (matrix.layout == MatrixLayout::kPackQuantized ||
      matrix.layout == MatrixLayout::kIntQuantized) {
    std::memcpy(out->data(), tensor.data, out->size());
    return;
  }
  for (int64_t n = 0; n < matrix.rows; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      std::memcpy(out->data() + (n * groups + g) * bytes,
                  tensor.data + (g * matrix.rows + n) * bytes, static_cast<size_t>(bytes));
    }
  }
}

}  // namespace

absl::StatusOr<StoredMatrix> FindMatrix(const ModelSpec& spec, const Checkpoint& checkpoint,
                                        const std::string& name, int64_t rows, int64_t cols) {
  StoredMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  RETURN_IF_ERROR(Finder(spec, checkpoint, name, &matrix).Find());
  return matrix;
}

WeightView ShapeOf(const StoredMatrix& matrix) {
  WeightView view;
  view.rows = matrix.rows;
  view.cols = matrix.cols;
  view.dtype = matrix.quantized() ? matrix.format.dtype : *matrix.weight->dtype;
  if (matrix.quantized()) view.scale_dtype = *matrix.scales->dtype;
  return view;
}

UnpackedMatrix Unpack(const StoredMatrix& matrix, ThreadTeam* team) {
  UnpackedMatrix unpacked;
  const StoredTensor& tensor = *matrix.weight;
  WeightView& view = unpacked.view;
  view = ShapeOf(matrix);
  if (!matrix.quantized()) {
    view.data = tensor.data;
    // The header of a safetensors file may have any length, so a tensor may start at any address.
    if (reinterpret_cast<uintptr_t>(tensor.data) % DTypeBytes(view.dtype) == 0) return unpacked;
    unpacked.floats = std::make_unique<char[]>(static_cast<size_t>(tensor.num_bytes));
    std::memcpy(unpacked.floats.get(), tensor.data, static_cast<size_t>(tensor.num_bytes));
    view.data = unpacked.floats.get();
    return unpacked;
  }
  unpacked.codes.resize(static_cast<size_t>(matrix.rows * matrix.cols));
  team->ParallelFor(matrix.rows, kUnpackRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row += kUnpackRows) {
      UnpackCodes(matrix, row, std::min(row + kUnpackRows, end), unpacked.codes.data());
    }
  });
  UnpackScales(matrix, matrix.format.NumGroups(matrix.cols), &unpacked.scales);
  view.data = unpacked.codes.data();
  view.scales = unpacked.scales.data();
  view.zeros = matrix.zeros.empty() ? nullptr : matrix.zeros.data();
  return unpacked;
}

}  // namespace tessera
