// Tests of the text files of a model, of the configuration and of Hugging Face's cache when other
// things are in their places.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/config/config.h"
#include "server/config/hub_folder.h"
#include "server/text/template/chat_template_source.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/config.pb.h"
#include "tests/lib/file_zoo.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using testing::FileZoo;
using ::testing::HasSubstr;

class ForeignFilesTest : public ::testing::Test {
 protected:
  std::string TokenizerError() { return std::string(LoadTokenizer(zoo_.dir()).status().message()); }
  std::string TemplateError() {
    return std::string(LoadChatTemplateSources(zoo_.dir()).status().message());
  }
  static std::string ConfigError(const std::string& path) {
    v1::Config config;
    return std::string(MergeYamlFile(path, &config).message());
  }
  void Remove(const std::string& name) { std::filesystem::remove_all(zoo_.Path(name)); }

  FileZoo zoo_;
};

TEST_F(ForeignFilesTest, FilesOfATokenizer) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    for (const std::string name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                                   "special_tokens_map.json"}) {
      zoo_.File("tokenizer.json", "{}");
      (zoo_.*beast.make)(name);
      if (name == "tokenizer.model") Remove("tokenizer.json");
      EXPECT_THAT(TokenizerError(), AllOf(HasSubstr("/" + name), HasSubstr(beast.says)))
          << beast.kind;
      Remove(name);
    }
  }
}

TEST_F(ForeignFilesTest, ATokenizerFileOfGigabytesIsRefused) {
  zoo_.Sparse("tokenizer.json", int64_t{1} << 40);
  EXPECT_THAT(TokenizerError(), HasSubstr("has 1099511627776 bytes"));
}

TEST_F(ForeignFilesTest, FilesOfATemplate) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    for (const std::string name :
         {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"}) {
      (zoo_.*beast.make)(name);
      EXPECT_THAT(TemplateError(), AllOf(HasSubstr("/" + name), HasSubstr(beast.says)))
          << beast.kind;
      Remove(name);
    }
  }
}

TEST_F(ForeignFilesTest, TheConfiguration) {
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    EXPECT_THAT(ConfigError((zoo_.*beast.make)("c.yaml")),
                AllOf(HasSubstr("--config: "), HasSubstr("/c.yaml: "), HasSubstr(beast.says)))
        << beast.kind;
  }
  EXPECT_EQ(ConfigError(zoo_.File("c.yaml", "log: {level: debug}\n")), "");
  EXPECT_THAT(ConfigError(zoo_.Sparse("c.yaml", (1 << 20) + 1)), HasSubstr("at most 1048576"));
}

TEST_F(ForeignFilesTest, AFolderOfTheHubCacheIsItsMainSnapshot) {
  const std::string root = "models--org--small-1.5B";
  const std::string commit = "7ae557604adf67be50417f59c2c2f167def9a775";
  zoo_.File(root + "/refs/main", commit + "\n");
  zoo_.Folder(root + "/snapshots/0000");
  zoo_.Folder(root + "/snapshots/" + commit);
  for (const char* end : {"", "/"}) {
    v1::Config config;
    config.add_models()->set_path(zoo_.Path(root) + end);
    ASSERT_TRUE(FinishConfig(&config).ok());
    EXPECT_EQ(config.models(0).name(), "small-1.5B");
    EXPECT_EQ(config.models(0).path(), zoo_.Path(root) + "/snapshots/" + commit);
  }
  v1::Config config;
  config.add_models()->set_path(zoo_.Path(root) + "/snapshots/0000/");
  ASSERT_TRUE(FinishConfig(&config).ok());
  EXPECT_EQ(config.models(0).name(), "small-1.5B");
  EXPECT_EQ(config.models(0).path(), zoo_.Path(root) + "/snapshots/0000/");
}

TEST_F(ForeignFilesTest, AFolderOfTheHubCacheWithoutAMainSnapshotIsRefused) {
  const std::string root = "models--org--m";
  zoo_.Folder(root + "/snapshots/0123");
  const auto error = [&] {
    return std::string(ResolveHubFolder(zoo_.Path(root)).status().message());
  };
  EXPECT_THAT(error(), AllOf(HasSubstr("refs/main names no snapshot"),
                             HasSubstr("give one of its snapshots: " + zoo_.Path(root) +
                                       "/snapshots/0123")));
  // The content of the file becomes a part of a path, so it may only be a commit.
  for (const char* ref : {"4567", "", "../../other", "0123/../0123", "."}) {
    zoo_.File(root + "/refs/main", ref);
    EXPECT_THAT(error(), HasSubstr("refs/main names no snapshot")) << ref;
  }
  zoo_.Fifo(root + "/refs/main");
  EXPECT_THAT(error(), HasSubstr("refs/main names no snapshot"));
  zoo_.File(root + "/refs/main", "0123");
  EXPECT_EQ(error(), "");
}

TEST_F(ForeignFilesTest, NamesOfModels) {
  EXPECT_EQ(DefaultModelName("/models/TinyLlama"), "TinyLlama");
  EXPECT_EQ(DefaultModelName("/models/TinyLlama/"), "TinyLlama");
  EXPECT_EQ(DefaultModelName("/hub/models--gpt2"), "gpt2");
  EXPECT_EQ(DefaultModelName("/hub/models--org--n/snapshots/0123"), "n");
  EXPECT_EQ(DefaultModelName("/backup/snapshots/0123"), "0123");
  EXPECT_EQ(DefaultModelName("/hub/models--"), "models--");
  EXPECT_EQ(DefaultModelName("."), std::filesystem::current_path().filename().string());
  // A folder that is only called like one of the cache is the model itself.
  const std::string plain = zoo_.Folder("models--org--m");
  EXPECT_EQ(*ResolveHubFolder(plain), plain);
}

}  // namespace
}  // namespace tessera
