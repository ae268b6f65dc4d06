#include "tests/lib/fake_adapters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "kernels/base/log.h"
#include "tests/lib/any_files.h"

namespace tessera::testing {
namespace {

constexpr int64_t kReadUs = 1000;

std::string NewFolder() {
  std::string dir = ::testing::TempDir() + "fake_adapters_XXXXXX";
  CHECK(mkdtemp(dir.data()) != nullptr);
  return dir;
}

}  // namespace

void FakeAdapterLoader::Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) {
  copies_.push_back({id, image, std::move(pages), /*written=*/false});
  if (writes_at_once_) WritePages(&copies_.back());
}

void FakeAdapterLoader::WritePages(PendingCopy* copy) {
  if (std::exchange(copy->written, true)) return;
  runner_->transfer()->ToDevice({copy->pages, copy->image->layout.page_bytes},
                                copy->image->pages.data(), /*ticket=*/0, [](Completion) {});
}

void FakeAdapterLoader::FinishRead(absl::StatusOr<AdapterImage> image) {
  CHECK(is_reading());
  const AdapterId id = reads_.front();
  reads_.pop_front();
  events_.on_read(id, std::move(image), kReadUs);
}

void FakeAdapterLoader::FinishCopy() {
  CHECK(is_copying());
  PendingCopy copy = std::move(copies_.front());
  copies_.pop_front();
  WritePages(&copy);
  events_.on_copied(copy.id);
}

FakeAdapters::FakeAdapters(const EngineModel& model, const std::vector<int32_t>& num_pages)
    : model_(model),
      num_pages_(num_pages),
      dir_(NewFolder()),
      registry_({{model.name, {}, model.layout.page_bytes(), DType::kF32}}, AnyFiles()) {
  for (size_t i = 0; i < num_pages_.size(); ++i) {
    const std::string name = "adapter" + std::to_string(i);
    const std::string path = dir_ + "/" + name;
    std::filesystem::create_directories(path);
    std::ofstream(path + "/adapter_config.json") << "{}";
    std::ofstream(path + "/adapter_model.safetensors") << name;
    CHECK(registry_.Register({{name, "", 0, path}}).ok());
    auto resolved = registry_.Resolve(0, {{name, "", {}}});
    CHECK(resolved.ok()) << resolved.status();
    resolved_.push_back(*std::move(resolved));
  }
}

FakeAdapters::~FakeAdapters() { std::filesystem::remove_all(dir_); }

// The adapter has one target in one layer, with one tile per page.
AdapterImage FakeAdapters::Image(AdapterId id) const {
  const auto it = std::find_if(resolved_.begin(), resolved_.end(),
                               [id](const ResolvedAdapter& resolved) { return resolved.id == id; });
  CHECK(it != resolved_.end()) << "adapter " << id;
  const int32_t num_pages = num_pages_[it - resolved_.begin()];
  AdapterImage image;
  image.layout.page_bytes = model_.layout.page_bytes();
  image.layout.num_pages = num_pages;
  image.layout.num_bytes = num_pages * image.layout.page_bytes;
  image.layout.matrices.resize(static_cast<size_t>(model_.num_layers) * kNumLoraTargets);
  LoraMatrices& matrices = image.layout.matrices[0];
  matrices.rank = 1;
  matrices.a = {0, 0, static_cast<int32_t>(image.layout.page_bytes), num_pages};
  for (int64_t i = 0; i < image.layout.num_bytes; ++i) {
    image.pages.push_back(static_cast<char>((id + 1) * 37 + i * 11));
  }
  return image;
}

FakeVariant FakeAdapters::Variant(size_t adapter) const {
  const AdapterImage image = Image(id(adapter));
  return {std::string(image.pages.begin(), image.pages.end()), 0};
}

}  // namespace tessera::testing
