// Tests of the adapter loader's threads: the pages that they write, and the events that they send.
#include "scheduler/residency/adapters/adapter_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "tests/lib/any_files.h"

namespace tessera::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// Records the pages that the loader writes and runs no steps. Used by one loader thread.
class RecordingRunner final : public Runner, public Transfer {
 public:
  void SetOnDone(std::function<void(Completion)>) override {}
  void Launch(const StepBatch*, const BatchArena*, LayerRange, StepResult*) override {
    ADD_FAILURE() << "no step is asked for";
  }
  Transfer* transfer() override { return this; }
  void ToDevice(const PageRun& run, const char* from, uint64_t ticket, Done done) override {
    const auto bytes = static_cast<size_t>(run.page_bytes);
    for (size_t i = 0; i < run.pages.size(); ++i) {
      written.emplace_back(run.pages[i], std::string(from + i * bytes, bytes));
    }
    done({ticket, absl::OkStatus()});
  }
  void ToHost(const PageRun&, char*, uint64_t, Done) override {
    ADD_FAILURE() << "nothing is read back";
  }
  int depth() const override { return 1; }

  std::vector<std::pair<PageId, std::string>> written;
};

TEST(AdapterLoaderTest, PagesAreWrittenBeforeTheyAreCalledCopied) {
  AdapterRegistry registry({});
  RecordingRunner runner;
  std::promise<std::vector<std::pair<PageId, std::string>>> copied;
  AdapterLoaderEvents events;
  events.on_copied = [&](AdapterId id) {
    EXPECT_EQ(id, 7);
    copied.set_value(runner.written);
  };
  const auto loader = NewAdapterLoader(&registry, &runner, 1, events);
  AdapterImage image;
  image.layout.page_bytes = 4;
  image.layout.num_pages = 3;
  for (const char byte : {'a', 'b', 'c'}) image.pages.insert(image.pages.end(), 4, byte);
  loader->Copy(7, &image, {5, 2, 9});
  EXPECT_THAT(copied.get_future().get(),
              ElementsAre(Pair(5, "aaaa"), Pair(2, "bbbb"), Pair(9, "cccc")));
}

TEST(AdapterLoaderTest, WhatCannotBeReadIsReported) {
  AdapterRegistryOptions options = AnyFiles();
  options.check_interval_us = 0;
  options.identity = [](const std::string&) { return std::string("files"); };
  AdapterRegistry registry({{"model", {}}}, options);
  const std::string path = "tests/golden/adapters/qwen2/plain";
  ASSERT_TRUE(registry.Register({{"plain", "", 0, path}}).ok());
  const ResolvedAdapter adapter = registry.Resolve(0, {{"plain", "", {}}}).value();
  RecordingRunner runner;
  // The message alone: Debian's abseil is not built with the thread sanitizer, which does not see
  // that a Status counts its holders.
  std::promise<std::string> read;
  AdapterLoaderEvents events;
  events.on_read = [&](AdapterId id, const absl::StatusOr<AdapterImage>& image, int64_t) {
    EXPECT_EQ(id, adapter.id);
    read.set_value(std::string(image.status().message()));
  };
  const auto loader = NewAdapterLoader(&registry, &runner, 1, events);
  loader->Read(adapter.id);
  EXPECT_THAT(read.get_future().get(), HasSubstr(path));
}

}  // namespace
}  // namespace tessera::testing
