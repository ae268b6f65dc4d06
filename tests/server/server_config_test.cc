// Tests of the configuration: YAML, --set and flags are merged into one message, and errors say
// what to change.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "server/config/config.h"
#include "server/config/config_rules.h"
#include "server/config/flags.h"
#include "server/config/net.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

std::string YamlError(const std::string& text) {
  v1::Config config;
  return std::string(MergeYaml("c.yaml", text, &config).message());
}

std::string SetError(const std::string& path, const std::string& value) {
  v1::Config config;
  return std::string(SetConfigValue("--set", path, value, &config).message());
}

std::string FlagError(const std::vector<std::string>& arguments) {
  v1::Config config;
  return std::string(ParseFlags(arguments, &config).status().message());
}

TEST(ConfigTest, ReadsAWholeFile) {
  v1::Config config;
  ASSERT_TRUE(MergeYaml("c.yaml",
                        "models:\n"
                        "  - name: small\n"
                        "    path: /m/small\n"
                        "  - path: /m/large\n"
                        "engine:\n"
                        "  kv_cache_bytes: 1.5GiB\n"
                        "  max_num_seqs: 8\n"
                        "  device: ref\n"
                        "log: {level: debug}\n",
                        &config)
                  .ok());
  EXPECT_EQ(config.models_size(), 2);
  EXPECT_EQ(config.models(0).name(), "small");
  EXPECT_EQ(config.models(1).path(), "/m/large");
  EXPECT_EQ(config.engine().kv_cache_bytes(), uint64_t{3} << 29);
  EXPECT_EQ(config.engine().max_num_seqs(), 8);
  EXPECT_EQ(config.engine().device(), "ref");
  EXPECT_FALSE(config.engine().has_threads());
  EXPECT_EQ(config.log().level(), "debug");
}

TEST(ConfigTest, EmptyFileIsNoConfiguration) {
  v1::Config config;
  EXPECT_TRUE(MergeYaml("c.yaml", "", &config).ok());
  EXPECT_TRUE(MergeYaml("c.yaml", "engine:\n", &config).ok());
}

TEST(ConfigTest, UnknownKeyNamesFileLineAndNearestKey) {
  EXPECT_EQ(YamlError("engine:\n  device: cpu\n  max_num_seq: 8\n"),
            "c.yaml:3: unknown key 'engine.max_num_seq'; the nearest known key is "
            "'engine.max_num_seqs'");
  EXPECT_EQ(YamlError("# comment\n\nengin: {}\n"),
            "c.yaml:3: unknown key 'engin'; the nearest known key is 'engine'");
  EXPECT_EQ(YamlError("zzzzzzzzzz: 1\n"),
            "c.yaml:1: unknown key 'zzzzzzzzzz'; known here: models, engine, server, limits, log, "
            "adapters, security, tenants");
  EXPECT_EQ(YamlError("models:\n  - nam: x\n"),
            "c.yaml:2: unknown key 'models.nam'; the nearest known key is 'models.name'");
}

TEST(ConfigTest, WrongShapesAndValues) {
  EXPECT_EQ(YamlError("engine: 3\n"), "c.yaml:1: engine must be a map of keys to values");
  EXPECT_EQ(YamlError("models: x\n"),
            "c.yaml:1: 'models' must be a list (lines that begin with '- ')");
  EXPECT_EQ(YamlError("engine:\n  threads: [1]\n"), "c.yaml:2: 'engine.threads' must be one value");
  EXPECT_EQ(YamlError("engine:\n  threads: many\n"),
            "c.yaml:2: engine.threads is 'many'; give a whole number");
  EXPECT_EQ(YamlError("engine:\n  threads: 0\n"),
            "c.yaml:2: engine.threads is 0; give a value from 1 to 1024");
  EXPECT_EQ(YamlError("engine:\n  threads: 99999999999999999999\n"),
            "c.yaml:2: engine.threads is '99999999999999999999'; give a whole number");
  EXPECT_EQ(YamlError("engine:\n  kv_cache_bytes: 2GB\n"),
            "c.yaml:2: engine.kv_cache_bytes is '2GB'; give bytes, or a number with KiB, MiB, GiB "
            "or TiB");
  EXPECT_EQ(YamlError("engine:\n  device: gpu\n"),
            "c.yaml:2: engine.device is 'gpu'; give one of auto, ref, cpu, cuda");
  EXPECT_EQ(YamlError("server:\n  listen: here\n"),
            "c.yaml:2: server.listen is 'here'; give HOST:PORT, e.g. 127.0.0.1:50051 or "
            "[::1]:50051");
  EXPECT_EQ(YamlError("log:\n  level: info\nlog:\n  level: warn\n"),
            "c.yaml:3: 'log' is there twice; remove one");
  EXPECT_EQ(YamlError("a: [\n").substr(0, 9), "c.yaml:2:");
}

TEST(ConfigTest, AliasesCannotExplode) {
  std::string text = "a0: &a0 [x,x]\n";
  for (int i = 1; i < 30; ++i) {
    absl::StrAppend(&text, "a", i, ": &a", i, " [*a", i - 1, ",*a", i - 1, "]\n");
  }
  EXPECT_NE(YamlError(text), "");
  std::string models = "models: &m\n";
  for (int i = 0; i < 100'001; ++i) models += " - {}\n";
  EXPECT_EQ(YamlError(models), "c.yaml is too large");
}

TEST(ConfigTest, SetByPath) {
  v1::Config config;
  ASSERT_TRUE(SetConfigValue("--set", "engine.max_queue", "7", &config).ok());
  ASSERT_TRUE(SetConfigValue("--set", "models.0.path", "/m", &config).ok());
  EXPECT_EQ(config.engine().max_queue(), 7);
  EXPECT_EQ(config.models(0).path(), "/m");
  EXPECT_EQ(SetError("engine.max_que", "7"),
            "--set: unknown key 'engine.max_que'; the nearest known key is 'engine.max_queue'");
  EXPECT_EQ(SetError("engine", "7"), "--set: 'engine' is not one value; name a key below it");
  EXPECT_EQ(SetError("log.level.x", "7"), "--set: 'log.level' has no keys");
  EXPECT_EQ(SetError("models.1.path", "/m"),
            "--set: 'models' is a list; give models.0 to models.0 and a key of it");
}

TEST(ConfigTest, FlagsWinOverTheFile) {
  const std::string file = ::testing::TempDir() + "/flags_win.yaml";
  std::ofstream(file) << "models: [{path: /m/file}]\nengine: {max_num_seqs: 3, threads: 5}\n";
  v1::Config config;
  const auto action = ParseFlags({"--max-num-seqs=9", "--config", file, "--model", "n=/m/flag",
                                  "--set", "engine.max_num_seqs=4", "--check"},
                                 &config);
  ASSERT_TRUE(action.ok()) << action.status();
  EXPECT_EQ(*action, Action::kCheck);
  EXPECT_EQ(config.engine().max_num_seqs(), 9);
  EXPECT_EQ(config.engine().threads(), 5);
  ASSERT_EQ(config.models_size(), 1);
  EXPECT_EQ(config.models(0).name(), "n");
  EXPECT_EQ(config.models(0).path(), "/m/flag");
  std::remove(file.c_str());
}

TEST(ConfigTest, FlagErrors) {
  EXPECT_EQ(FlagError({}), "no model to serve; give --model [NAME=]DIR");
  EXPECT_EQ(FlagError({"--modle", "x"}),
            "unknown argument '--modle'; the nearest known flag is --model");
  EXPECT_EQ(FlagError({"x"}), "unknown argument 'x'; see tesserad --help");
  EXPECT_EQ(FlagError({"--model"}), "--model needs a value");
  EXPECT_EQ(FlagError({"--set", "x"}), "--set x: give KEY=VALUE, e.g. --set engine.max_num_seqs=8");
  EXPECT_EQ(FlagError({"--model", "a=/x", "--model", "a=/y"}),
            "two models are called 'a'; give one another name: --model NAME=DIR");
  EXPECT_EQ(FlagError({"--config", "/no/such"}),
            "--config: /no/such: No such file or directory; give a YAML file");
  EXPECT_EQ(FlagError({"--model", "/m", "--device", "cuda"}),
            "engine.device: 'cuda' comes in a later release; give one of auto, ref, cpu");
  EXPECT_EQ(FlagError({"--model", "/m", "--dtype", "int4"}), "");
  EXPECT_EQ(FlagError({"--model", "/m", "--dtype", "int8"}), "");
  EXPECT_EQ(FlagError({"--model", "/m", "--kv-cache-dtype", "int8"}), "");
  EXPECT_EQ(FlagError({"--model", "/m", "--activations", "bfloat16"}), "");
  EXPECT_EQ(FlagError({"--model", "/m", "--activations", "float32"}),
            "--activations: engine.activations is 'float32'; give one of auto, bfloat16, int8");
  EXPECT_EQ(FlagError({"--model", "/m", "--kv-cache-dtype", "int4"}),
            "--kv-cache-dtype: engine.kv_cache_dtype is 'int4'; give one of auto, float32, "
            "bfloat16, int8");
  EXPECT_EQ(FlagError({"--model", "/m", "--dtype", "fp8"}),
            "--dtype: engine.dtype is 'fp8'; give one of auto, float32, bfloat16, float16, int8, "
            "int5, int4");
}

TEST(ConfigTest, FlagsOfOtherServersNameTheFlagThatSetsTheSame) {
  const std::string error = FlagError({"--port", "8000"});
  EXPECT_EQ(error.rfind("unknown argument '--port'; give --listen HOST:PORT: ", 0), 0u) << error;
  EXPECT_EQ(FlagError({"--host=0.0.0.0"}).rfind("unknown argument '--host'; give --listen ", 0),
            0u);
  EXPECT_EQ(FlagError({"--ctx-size", "1"})
                .rfind("unknown argument '--ctx-size'; give --max-model-len ", 0),
            0u);
}

// A mounted ConfigMap is a folder of symbolic links to files.
TEST(ConfigTest, AFolderIsNoConfigurationFile) {
  const std::string folder = ::testing::TempDir() + absl::StrCat("/config_folder_", getpid());
  std::filesystem::create_directories(folder + "/..data");
  const auto error = [&](const std::string& path) {
    return FlagError({"--config", path, "--model", "/m"});
  };
  EXPECT_EQ(error(folder), absl::StrCat("--config: ", folder, ": is a folder; give a YAML file"));
  std::ofstream(folder + "/..data/tessera.yaml") << "engine: {max_num_seqs: 8}\n";
  std::filesystem::create_symlink("..data/tessera.yaml", folder + "/tessera.yaml");
  std::ofstream(folder + "/b.yaml") << "\n";
  EXPECT_EQ(error(folder), absl::StrCat("--config: ", folder,
                                        ": is a folder; give a YAML file, e.g. one of the "
                                        "folder's: b.yaml, tessera.yaml"));
  EXPECT_EQ(error(folder + "/tessera.yaml"), "");
  std::filesystem::remove_all(folder);
}

// gRPC counts the age of a connection in milliseconds with 32 bits.
TEST(ConfigTest, AConnectionAgeThatGrpcCannotCountIsRefused) {
  EXPECT_EQ(SetError("server.max_connection_age_seconds", "2147483"), "");
  EXPECT_NE(SetError("server.max_connection_age_seconds", "2147484"), "");
}

TEST(ConfigTest, LoopbackAddresses) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "localhost", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(IsLoopback({host, 1})) << host;
  }
  for (const char* host :
       {"0.0.0.0", "10.0.0.1", "::", "::ffff:10.0.0.1", "no.such.host.invalid"}) {
    EXPECT_FALSE(IsLoopback({host, 1})) << host;
  }
}

TEST(ConfigTest, ModelNames) {
  v1::Config config;
  ASSERT_TRUE(
      ParseFlags({"--model", "/m/qwen/", "--model", "b=c=d", "--model", "./x=y"}, &config).ok());
  EXPECT_EQ(config.models(0).name(), "qwen");
  EXPECT_EQ(config.models(1).name(), "b");
  EXPECT_EQ(config.models(1).path(), "c=d");
  EXPECT_EQ(config.models(2).name(), "x=y");
}

TEST(ConfigTest, EveryFlagAndRuleNamesAField) {
  for (const ConfigFlag& flag : ConfigFlags()) {
    EXPECT_EQ(SetError(flag.path, "\x01").find("unknown key"), std::string::npos) << flag.flag;
    EXPECT_NE(HelpText().find(flag.flag), std::string::npos);
  }
  for (const ConfigRule& rule : ConfigRules()) {
    EXPECT_EQ(SetError(rule.path, "\x01").find("unknown key"), std::string::npos) << rule.path;
  }
}

TEST(ConfigTest, LimitsOfConnectionsHaveBounds) {
  EXPECT_EQ(SetError("limits.max_connections", "1000000"), "");
  EXPECT_EQ(SetError("limits.max_connections", "0"),
            "--set: limits.max_connections is 0; give a value from 1 to 1000000");
  EXPECT_EQ(SetError("limits.max_header_block_bytes", "64KiB"), "");
  EXPECT_EQ(SetError("limits.max_header_block_bytes", "2MiB"),
            "--set: limits.max_header_block_bytes is 2MiB; give a value from 1024 to 1048576");
  EXPECT_EQ(SetError("limits.max_incoming_bytes", "64MiB"),
            "--set: limits.max_incoming_bytes is 64MiB; give at least 83886080");
  EXPECT_EQ(SetError("server.control", "off"), "");
  EXPECT_EQ(SetError("server.control", "on"),
            "--set: server.control is 'on'; give one of loopback, off");
}

TEST(ConfigTest, Sizes) {
  EXPECT_EQ(*ParseSize("0"), 0u);
  EXPECT_EQ(*ParseSize("12"), 12u);
  EXPECT_EQ(*ParseSize("1KiB"), 1024u);
  EXPECT_EQ(*ParseSize("2 GiB"), uint64_t{2} << 30);
  EXPECT_EQ(*ParseSize("0.5MiB"), uint64_t{1} << 19);
  for (const char* bad : {"", "KiB", "-1", "-1KiB", "1.5", "nan", "nanGiB", "infMiB", "1e300GiB",
                          "99999999999TiB", "1kb", "0x10"}) {
    EXPECT_FALSE(ParseSize(bad).ok()) << bad;
  }
  EXPECT_EQ(FormatSize(1536), "1.5KiB");
  EXPECT_EQ(FormatSize(uint64_t{2} << 30), "2GiB");
}

TEST(ConfigTest, Addresses) {
  EXPECT_EQ(ParseHostPort("localhost:0")->host, "localhost");
  EXPECT_EQ(ParseHostPort("[::1]:80")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:80")->port, 80);
  for (const char* bad : {"", ":", ":80", "a", "a:", "a:b", "a:65536", "a:-1", "::1:80", "[]:1"}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace tessera
