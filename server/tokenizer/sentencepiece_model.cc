#include "server/tokenizer/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <utility>

namespace tessera {

struct SentencePieceModel::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(std::string_view serialized) {
  auto impl = std::make_unique<Impl>();
  if (!impl->processor.LoadFromSerializedProto(serialized).ok()) return nullptr;
  if (impl->processor.GetPieceSize() <= 0) return nullptr;
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(impl)));
}

int SentencePieceModel::size() const { return impl_->processor.GetPieceSize(); }
const std::string& SentencePieceModel::piece(int id) const {
  return impl_->processor.IdToPiece(id);
}
bool SentencePieceModel::is_control(int id) const { return impl_->processor.IsControl(id); }
bool SentencePieceModel::is_unknown(int id) const { return impl_->processor.IsUnknown(id); }
bool SentencePieceModel::is_byte(int id) const { return impl_->processor.IsByte(id); }
int SentencePieceModel::bos_id() const { return impl_->processor.bos_id(); }
int SentencePieceModel::eos_id() const { return impl_->processor.eos_id(); }

void SentencePieceModel::Encode(std::string_view text, std::vector<int>* ids) const {
  ids->clear();
  impl_->processor.Encode(text, ids).IgnoreError();
}

}  // namespace tessera
