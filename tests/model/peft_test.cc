// Tests of PEFT adapters: single adapters and blends compute what peft computes, batches mix
// adapters, and unsupported files are refused by name.
#include "kernels/model/lora/peft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "absl/strings/str_replace.h"
#include "tests/lib/file_zoo.h"
#include "tests/lib/log_capture.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/shared_data.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kAdapters = "tests/golden/adapters/";

std::vector<float> ReadFloatFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// Where versions of transformers have the language model of a multimodal model.
const std::vector<std::string> kNestings = {"model.language_model.", "language_model.model."};

// A folder that is deleted with this object.
class Folder final {
 public:
  explicit Folder(const std::string& name)
      : path_(::testing::TempDir() + "/" + name + "_" + std::to_string(getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

RawTensors ReadAdapterTensors(const std::string& dir) {
  const Folder copy("peft_copy");
  std::filesystem::copy_file(dir + "/adapter_model.safetensors",
                             copy.path() + "/model.safetensors");
  return ReadRawTensors(copy.path());
}

void WriteAdapterTensors(const std::string& dir, const RawTensors& tensors) {
  WriteRawTensors(dir, tensors);
  std::filesystem::rename(dir + "/model.safetensors", dir + "/adapter_model.safetensors");
}

// Replaces the start of a name. `from` must be its start.
std::string Renamed(const std::string& name, const std::string& from, const std::string& to) {
  EXPECT_EQ(name.substr(0, from.size()), from);
  return to + name.substr(from.size());
}

// Writes the multimodal model of which gemma3_nested has adapters.
void WriteNestedModel(const std::string& nesting, const std::string& dir) {
  std::filesystem::copy_file(kAdapters + "gemma3_nested/config.json", dir + "/config.json");
  RawTensors tensors;
  for (auto& [name, tensor] : ReadRawTensors(GoldenModelDir("gemma3"))) {
    tensors[Renamed(name, "model.", nesting)] = std::move(tensor);
  }
  tensors["vision_tower.post_layernorm.weight"] = {"F32", {1}, std::string(4, '\0')};
  WriteRawTensors(dir, tensors);
}

// Copies an adapter of gemma3_nested; `nesting` takes the place of "model.language_model." in its
// names and patterns. With "model." the copy is an adapter of a model of text alone.
void WriteNestedAdapter(const std::string& name, const std::string& nesting,
                        const std::string& dir) {
  const std::string from = kAdapters + "gemma3_nested/" + name;
  RawTensors tensors;
  for (auto& [key, tensor] : ReadAdapterTensors(from)) {
    const bool vision = key.find("vision_tower") != std::string::npos;
    tensors[vision ? key
                   : Renamed(key, "base_model.model." + kNestings[0],
                             "base_model.model." + nesting)] = std::move(tensor);
  }
  WriteAdapterTensors(dir, tensors);
  Json config = Json::parse(std::ifstream(from + "/adapter_config.json"));
  const std::string regex = absl::StrReplaceAll(nesting, {{".", "\\."}});
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    Json patterns = Json::object();
    for (const auto& [pattern, value] : config[key].items()) {
      patterns[absl::StrReplaceAll(pattern, {{"model\\.language_model\\.", regex},
                                             {"language_model.layers", nesting + "layers"}})] =
          value;
    }
    config[key] = patterns;
  }
  std::ofstream(dir + "/adapter_config.json") << config.dump();
}

class PeftGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  // The image of a golden case, which lists adapters in the folder `dir` with their weights.
  static AdapterImage ImageOf(const TinyModel& tiny, const std::string& dir, const Json& parts,
                              DType dtype, int32_t max_rank = 0) {
    std::vector<std::unique_ptr<PeftAdapter>> adapters;
    std::vector<WeightedAdapter> weighted;
    for (const Json& part : parts) {
      auto adapter = PeftAdapter::Open(tiny.spec(), dir + "/" + part[0].get<std::string>());
      EXPECT_TRUE(adapter.ok()) << adapter.status();
      adapters.push_back(*std::move(adapter));
      weighted.push_back({adapters.back().get(), part[1].get<float>()});
    }
    auto image =
        BuildAdapterImage(tiny.spec(), weighted, dtype, tiny.layout().page_bytes(), max_rank);
    EXPECT_TRUE(image.ok()) << image.status();
    return *std::move(image);
  }
};

INSTANTIATE_TEST_SUITE_P(Backend, PeftGoldenTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param; });

TEST_P(PeftGoldenTest, ComputesWhatPeftDoes) {
  for (const std::string model : {"qwen2", "mistral", "llama32", "qwen3", "gemma2", "gemma3"}) {
    const Json golden = Json::parse(std::ifstream(kAdapters + model + "/golden.json"));
    const auto prompt = golden["prompt_ids"].get<std::vector<TokenId>>();
    TestBackend backend(GetParam());
    TinyModel tiny(GoldenModelDir(model), backend.backend.get());
    for (const auto& [name, parts] : golden["cases"].items()) {
      const int adapter =
          parts.empty() ? -1
                        : tiny.AddAdapter(ImageOf(tiny, kAdapters + model, parts, DType::kF32));
      const std::vector<float> want = ReadFloatFile(kAdapters + model + "/" + name + ".f32");
      for (const int chunk : {64, 5, 1}) {
        EXPECT_LT(MaxDifference(tiny.AllLogits(prompt, chunk, adapter), want), 1e-4f)
            << model << " " << name << " in chunks of " << chunk;
      }
    }
  }
}

// One step has decode and prefill segments of the base model, two adapters and a blend. Each
// segment's logits have the bits of a step with that segment alone.
TEST_P(PeftGoldenTest, AMixedBatchIsEachRequestAlone) {
  for (const std::string model : {"qwen2", "qwen3", "gemma2", "gemma3"}) {
    SCOPED_TRACE(model);
    const Json golden = Json::parse(std::ifstream(kAdapters + model + "/golden.json"));
    const auto prompt = golden["prompt_ids"].get<std::vector<TokenId>>();
    TestBackend backend(GetParam(), 2);
    TinyModel tiny(GoldenModelDir(model), backend.backend.get());
    std::vector<int> adapters = {-1};
    for (const std::string name : {"plain", "patterns", "blend"}) {
      adapters.push_back(
          tiny.AddAdapter(ImageOf(tiny, kAdapters + model, golden["cases"][name], DType::kBF16)));
    }
    const std::vector<int> lengths = {1, 20, 1, 7, 1, 1};
    std::vector<TinySegment> segments;
    std::vector<std::vector<float>> alone;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const int adapter = adapters[(i * 3 + 1) % adapters.size()];
      const std::vector<TokenId> tokens(prompt.begin() + static_cast<int>(i),
                                        prompt.begin() + static_cast<int>(i) + lengths[i]);
      alone.push_back(tiny.AllLogits(tokens, 64, adapter));
      TinySegment segment = {tiny.AddSequence(tokens), lengths[i]};
      segment.adapter = adapter;
      segments.push_back(segment);
    }
    tiny.Step(segments);
    std::vector<float> want;
    for (const std::vector<float>& logits : alone) {
      want.insert(want.end(), logits.begin(), logits.end());
    }
    EXPECT_TRUE(SameBits(tiny.LastLogits(), want));
  }
}

// Adapters of the language model in a multimodal model. Both versions' names of the model go with
// all names of the adapter.
TEST_P(PeftGoldenTest, ANestedModelComputesWhatPeftDoes) {
  const std::string dir = kAdapters + "gemma3_nested";
  const Json golden = Json::parse(std::ifstream(dir + "/golden.json"));
  const auto prompt = golden["prompt_ids"].get<std::vector<TokenId>>();
  for (const std::string& of_model : kNestings) {
    const Folder folder("peft_nested_model");
    WriteNestedModel(of_model, folder.path());
    TestBackend backend(GetParam());
    TinyModel tiny(folder.path(), backend.backend.get());
    for (const std::string& of_adapter : {kNestings[0], kNestings[1], std::string("model.")}) {
      const Folder adapters("peft_nested_adapters");
      for (const std::string name : {"plain", "patterns"}) {
        std::filesystem::create_directories(adapters.path() + "/" + name);
        WriteNestedAdapter(name, of_adapter, adapters.path() + "/" + name);
      }
      for (const auto& [name, parts] : golden["cases"].items()) {
        const int adapter =
            parts.empty() ? -1
                          : tiny.AddAdapter(ImageOf(tiny, adapters.path(), parts, DType::kF32));
        const std::vector<float> want = ReadFloatFile(dir + "/" + name + ".f32");
        EXPECT_LT(MaxDifference(tiny.AllLogits(prompt, 5, adapter), want), 1e-4f)
            << name << " of " << of_adapter << " on " << of_model;
      }
    }
  }
}

// A blend of an adapter with itself has twice the adapter's rank. Re-compressed to the adapter's
// rank, the blend equals the adapter if the weights add up to 1.
TEST_P(PeftGoldenTest, OneBesideItselfRecompressedIsTheOne) {
  const Json twice = Json::array({Json::array({"plain", 1.5}), Json::array({"plain", -0.5})});
  for (const std::string model : {"qwen2", "mistral", "llama32"}) {
    const Json golden = Json::parse(std::ifstream(kAdapters + model + "/golden.json"));
    const auto prompt = golden["prompt_ids"].get<std::vector<TokenId>>();
    TestBackend backend(GetParam());
    TinyModel tiny(GoldenModelDir(model), backend.backend.get());
    const AdapterImage one =
        ImageOf(tiny, kAdapters + model, golden["cases"]["plain"], DType::kF32);
    int32_t rank = 0;
    for (const LoraMatrices& matrices : one.layout.matrices) rank = std::max(rank, matrices.rank);
    const AdapterImage image = ImageOf(tiny, kAdapters + model, twice, DType::kF32, rank);
    EXPECT_EQ(image.layout.num_bytes, one.layout.num_bytes);
    const std::vector<float> want = ReadFloatFile(kAdapters + model + "/plain.f32");
    EXPECT_LT(MaxDifference(tiny.AllLogits(prompt, 64, tiny.AddAdapter(image)), want), 1e-4f);
    // Re-compression to one rank less changes the result.
    const AdapterImage less = ImageOf(tiny, kAdapters + model, twice, DType::kF32, rank - 1);
    EXPECT_GT(MaxDifference(tiny.AllLogits(prompt, 64, tiny.AddAdapter(less)), want), 1e-3f);
  }
}

TEST_P(PeftGoldenTest, NoLinearHasMoreThanTheRankAskedFor) {
  TestBackend backend(GetParam());
  TinyModel tiny(GoldenModelDir("qwen2"), backend.backend.get());
  const Json golden = Json::parse(std::ifstream(kAdapters + "qwen2/golden.json"));
  const Json& parts = golden["cases"]["blend"];
  const AdapterImage exact = ImageOf(tiny, kAdapters + "qwen2", parts, DType::kBF16);
  int num_less = 0;
  for (const int32_t rank : {1, 2, 6, 4096}) {
    const AdapterImage image = ImageOf(tiny, kAdapters + "qwen2", parts, DType::kBF16, rank);
    ASSERT_EQ(image.layout.matrices.size(), exact.layout.matrices.size());
    for (size_t i = 0; i < image.layout.matrices.size(); ++i) {
      const int32_t whole = exact.layout.matrices[i].rank;
      EXPECT_EQ(image.layout.matrices[i].rank, std::min(whole, rank)) << "matrix " << i;
      num_less += whole > rank ? 1 : 0;
    }
    // No linear's ranks add up to more than 4,096, so the blend is exact.
    if (rank == 4096) {
      EXPECT_EQ(image.pages, exact.pages);
    }
  }
  EXPECT_GT(num_less, 0);
}

// A copy of a golden adapter, which a test changes to make it invalid.
class PeftErrorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/peft_" + std::to_string(getpid());
    std::filesystem::remove_all(dir_);
    std::filesystem::copy(kAdapters + "qwen2/patterns", dir_);
    spec_ = *LoadModelSpec(GoldenModelDir("qwen2"));
    config_ = Json::parse(std::ifstream(dir_ + "/adapter_config.json"));
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string Error() {
    std::ofstream(dir_ + "/adapter_config.json") << config_.dump();
    const auto adapter = PeftAdapter::Open(spec_, dir_);
    return adapter.ok() ? "" : std::string(adapter.status().message());
  }
  std::string ErrorWith(const std::string& key, const Json& value) {
    const Json old = config_;
    config_[key] = value;
    const std::string error = Error();
    config_ = old;
    return error;
  }

  std::string dir_;
  ModelSpec spec_;
  Json config_;
};

TEST_F(PeftErrorsTest, WhatComputesSomethingElseIsRefusedByName) {
  EXPECT_EQ(Error(), "");
  EXPECT_THAT(ErrorWith("use_dora", true), HasSubstr("use_dora"));
  EXPECT_THAT(ErrorWith("fan_in_fan_out", true), HasSubstr("fan_in_fan_out"));
  EXPECT_THAT(ErrorWith("modules_to_save", {"lm_head"}), HasSubstr("modules_to_save"));
  EXPECT_THAT(ErrorWith("bias", "all"), HasSubstr("bias"));
  EXPECT_THAT(ErrorWith("lora_bias", true), HasSubstr("lora_bias"));
  EXPECT_THAT(ErrorWith("peft_type", "IA3"), HasSubstr("peft_type"));
  EXPECT_THAT(ErrorWith("layer_replication", Json::array({Json::array({0, 2})})),
              HasSubstr("layer_replication"));
  EXPECT_THAT(ErrorWith("r", 0), HasSubstr("r has an unsupported value; must be an integer"));
  EXPECT_THAT(ErrorWith("rank_pattern", {{"(", 3}}), HasSubstr("regular expression"));
  EXPECT_THAT(ErrorWith("rank_pattern", Json::object()), HasSubstr("has rank"));
}

TEST_F(PeftErrorsTest, PatternsTakeABoundedTime) {
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    EXPECT_THAT(ErrorWith(key, {{"(?:.+)+(?:.+)+[=#]", 3}}),
                ::testing::AllOf(HasSubstr("adapter_config.json: a key of rank_pattern"),
                                 HasSubstr("takes more than 1000 steps")));
    Json many = Json::object();
    for (int i = 0; i < 1025; ++i) many[std::to_string(i)] = 1;
    EXPECT_THAT(ErrorWith(key, many), HasSubstr("has more than 1024 patterns"));
  }
  // What users write. None of them matches a module of this adapter, so all steps are taken.
  Json usual = config_["alpha_pattern"];
  for (const char* key :
       {"model.layers.99.self_attn.q_proj",
        R"(model\.layers\.(9[0-9]|1[0-9][0-9])\..*\.(q|v)_proj)", ".*attn.*no_proj",
        R"(.*\.layers\..*\.self_attn\..*x)", "layers.*.self_attn.*.x_proj",
        ".*model.*layers.*mlp.*x_proj", R"(^.*\.(x|y)_proj$)", R"((.*\.)?layers\.\d+\.mlp\.x)"}) {
    usual[key] = 5;
  }
  EXPECT_EQ(ErrorWith("alpha_pattern", usual), "");
}

// Every key of LoraConfig in PEFT 0.21 that changes what a finished adapter computes.
TEST_F(PeftErrorsTest, EachVariantOfLoraIsRefusedByName) {
  const std::map<std::string, Json> variants = {
      {"use_dora", true},
      {"fan_in_fan_out", true},
      {"modules_to_save", {"lm_head"}},
      {"lora_bias", true},
      {"trainable_token_indices", {3, 4}},
      {"layer_replication", Json::array({Json::array({0, 2})})},
      {"target_parameters", {"mlp.experts"}},
      {"use_qalora", true},
      {"use_bdlora", {{"nblocks", 2}}},
      {"kasa_config", {{"beta", 0.1}}},
      {"alora_invocation_tokens", {5}},
      {"arrow_config", {{"top_k", 3}}},
      {"bias", "lora_only"},
      {"use_variant_of_next_year", true},
      {"variant_config", {{"x", 1}}},
      {"variant_list", {1}},
  };
  for (const auto& [key, value] : variants) {
    EXPECT_THAT(ErrorWith(key, value), HasSubstr("adapter_config.json: " + key + " has an"));
  }
}

// The other keys of LoraConfig, and unknown keys that switch nothing on.
TEST_F(PeftErrorsTest, WhatDoesNotChangeTheResultIsIgnored) {
  const std::map<std::string, Json> harmless = {
      {"corda_config", {{"corda_method", "kpm"}}},
      {"ensure_weight_tying", true},
      {"eva_config", {{"rho", 2.0}}},
      {"inference_mode", false},
      {"layers_pattern", "layers"},
      {"loftq_config", {{"loftq_bits", 4}}},
      {"lora_ga_config", {{"scale", "unit"}}},
      {"megatron_config", {{"x", 1}}},
      {"megatron_core", "other.core"},
      {"monteclora_config", {{"num_samples", 2}}},
      {"qalora_group_size", 32},
      {"runtime_config", {{"ephemeral_gpu_offload", true}}},
      {"task_type", "SEQ_CLS"},
      {"velora_config", {{"scale", 2.0}}},
      {"auto_mapping", {{"base_model_class", "LlamaForCausalLM"}}},
      {"use_variant_of_next_year", false},
      {"variant_config", Json::object()},
      {"variant_list", nullptr},
      {"group_size_of_a_variant", 16},
      {"comment", "made by hand"},
  };
  for (const auto& [key, value] : harmless) EXPECT_EQ(ErrorWith(key, value), "") << key;
}

TEST_F(PeftErrorsTest, InitialisationsThatChangeTheBaseWeightsAreRefused) {
  for (const char* plain : {"gaussian", "Gaussian", "eva", "mica", "orthogonal"}) {
    EXPECT_EQ(ErrorWith("init_lora_weights", plain), "") << plain;
  }
  for (const bool plain : {true, false}) EXPECT_EQ(ErrorWith("init_lora_weights", plain), "");
  const std::map<std::string, std::string> moved = {
      {"pissa", "PiSSA"}, {"pissa_niter_16", "PiSSA"}, {"olora", "OLoRA"}, {"OLoRA", "OLoRA"},
      {"corda", "CorDA"}, {"lora_ga", "LoRA-GA"},      {"loftq", "LoftQ"}};
  for (const auto& [init, name] : moved) {
    const std::string error = ErrorWith("init_lora_weights", init);
    EXPECT_THAT(error, HasSubstr("init_lora_weights has an unsupported value; " + name)) << init;
    const bool converts = name != "LoftQ";
    EXPECT_EQ(error.find("path_initial_model_for_weight_conversion=") != std::string::npos,
              converts);
  }
  EXPECT_THAT(ErrorWith("init_lora_weights", "next_year"), HasSubstr("is not known"));
}

// A client may register any folder, so errors must not tell what its files hold.
TEST_F(PeftErrorsTest, ErrorsShowNoValuesOfTheConfiguration) {
  const std::string secret = "hunter2";
  for (const char* key : {"peft_type", "r", "lora_alpha", "bias", "init_lora_weights", "use_dora",
                          "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"}) {
    const std::string error = ErrorWith(key, secret);
    EXPECT_THAT(error, HasSubstr(key));
    EXPECT_EQ(error.find(secret), std::string::npos) << error;
  }
  EXPECT_EQ(ErrorWith("rank_pattern", {{"q_proj", secret}}).find(secret), std::string::npos);
  const std::string error = ErrorWith("r", 31337);
  EXPECT_NE(error, "");
  EXPECT_EQ(error.find("31337"), std::string::npos) << error;
}

TEST_F(PeftErrorsTest, ErrorsShowNothingOfFilesThatAreNoAdapters) {
  const std::string secret = "hunter2";
  const auto errors = [&] {
    return std::string(PeftAdapter::ReadRanks(spec_, dir_).status().message()) +
           std::string(PeftAdapter::Open(spec_, dir_).status().message());
  };
  for (const std::string& text : {secret, "\"" + secret, "{\"r\": " + secret + "}"}) {
    std::ofstream(dir_ + "/adapter_config.json") << text;
    EXPECT_THAT(errors(), HasSubstr("adapter_config.json"));
    EXPECT_EQ(errors().find(secret), std::string::npos) << errors();
  }
  std::ofstream(dir_ + "/adapter_config.json") << config_.dump();
  const std::string header = R"({"a": {"dtype": ")" + secret + R"(", "shape": [], )" +
                             R"("data_offsets": [0, 0]}, "__metadata__": {"k": ")" + secret +
                             "\"}}";
  for (const std::string& text : {header, secret, header.substr(0, 30)}) {
    std::string size(8, '\0');
    size[0] = static_cast<char>(text.size());
    std::ofstream(dir_ + "/adapter_model.safetensors") << size << text;
    EXPECT_THAT(errors(), HasSubstr("adapter_model.safetensors"));
    EXPECT_EQ(errors().find(secret), std::string::npos) << errors();
  }
}

TEST_F(PeftErrorsTest, EveryFileMustBeAFile) {
  FileZoo zoo;
  for (const FileZoo::Beast& beast : FileZoo::Beasts()) {
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
      SCOPED_TRACE(std::string(beast.kind) + " " + name);
      std::filesystem::remove_all(zoo.dir());
      std::filesystem::copy(dir_, zoo.dir());
      (zoo.*beast.make)(name);
      for (const absl::Status& status : {PeftAdapter::ReadRanks(spec_, zoo.dir()).status(),
                                         PeftAdapter::Open(spec_, zoo.dir()).status()}) {
        EXPECT_THAT(std::string(status.message()), HasSubstr(beast.says));
      }
    }
  }
}

TEST_F(PeftErrorsTest, ValuesThatAreNotFiniteAreRefusedWithTheTensorsName) {
  const std::string file = dir_ + "/adapter_model.safetensors";
  for (const std::string type : {"F32", "F16", "BF16"}) {
    const int64_t width = type == "F32" ? 4 : 2;
    // The two tensors of q_proj in layer 0, all ones.
    Json header;
    int64_t end = 0;
    for (const auto& [name, rows, cols] :
         {std::tuple<std::string, int64_t, int64_t>("lora_A", 2, spec_.hidden),
          {"lora_B", spec_.heads * spec_.head_dim, 2}}) {
      const int64_t begin = end;
      end += rows * cols * width;
      header["base_model.model.model.layers.0.self_attn.q_proj." + name + ".weight"] = {
          {"dtype", type}, {"shape", {rows, cols}}, {"data_offsets", {begin, end}}};
    }
    config_ = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 2}};
    const auto error_with = [&](uint32_t bits) {
      std::string data(static_cast<size_t>(end), '\0');
      const uint32_t low = width == 4 ? bits : bits >> 16;
      std::memcpy(data.data() + end - width, &low, static_cast<size_t>(width));
      const std::string text = header.dump();
      const uint64_t length = text.size();
      std::ofstream(file, std::ios::binary)
          << std::string(reinterpret_cast<const char*>(&length), sizeof(length)) << text << data;
      return Error();
    };
    EXPECT_EQ(error_with(0), "") << type;
    // Quiet NaN, infinity and its negative; F16 has its exponent in other bits.
    for (const uint32_t bits : {0x7fc00000u, 0x7f800000u, 0xff800000u}) {
      const uint32_t of_type = type == "F16" ? (bits & 0xfe000000u) | 0x7c000000u : bits;
      const std::string error = error_with(of_type);
      EXPECT_THAT(error, HasSubstr(file + ": base_model.model.model.layers.0.self_attn.q_proj."
                                          "lora_B.weight has NaN or an infinity"))
          << type;
    }
    EXPECT_TRUE(PeftAdapter::ReadRanks(spec_, dir_).ok()) << "the header is whole";
  }
}

TEST_F(PeftErrorsTest, TheHeaderAloneTellsTheRanks) {
  ASSERT_EQ(Error(), "");
  const auto ranks = PeftAdapter::ReadRanks(spec_, dir_);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  EXPECT_EQ(*ranks, (*PeftAdapter::Open(spec_, dir_))->ranks());
  const auto error_with = [&](const std::string& key, const Json& value) {
    const std::string whole = ErrorWith(key, value);
    const Json old = config_;
    config_[key] = value;
    std::ofstream(dir_ + "/adapter_config.json") << config_.dump();
    const auto header = PeftAdapter::ReadRanks(spec_, dir_);
    config_ = old;
    EXPECT_EQ(header.status().message(), whole);
    return whole;
  };
  EXPECT_THAT(error_with("use_dora", true), HasSubstr("use_dora"));
  EXPECT_THAT(error_with("peft_type", "IA3"), HasSubstr("peft_type"));
  EXPECT_THAT(error_with("rank_pattern", Json::object()), HasSubstr("has rank"));
  ASSERT_EQ(Error(), "");
  for (const int64_t bytes : {30000, 100, 9, 8, 3, 0}) {
    std::filesystem::resize_file(dir_ + "/adapter_model.safetensors", bytes);
    const auto cut = PeftAdapter::ReadRanks(spec_, dir_);
    EXPECT_FALSE(cut.ok()) << bytes;
    EXPECT_EQ(cut.status(), PeftAdapter::Open(spec_, dir_).status());
  }
}

// The files must lie below the roots after all links are resolved.
TEST_F(PeftErrorsTest, LinksDoNotLeaveTheRoots) {
  const std::string root = dir_ + "/root";
  std::filesystem::create_directories(root);
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    std::filesystem::rename(dir_ + name, root + name);
  }
  EXPECT_TRUE(PeftAdapter::ReadRanks(spec_, root, {root}).ok());
  for (const char* name : {"/adapter_model.safetensors", "/adapter_config.json"}) {
    std::filesystem::rename(root + name, dir_ + name);
    std::filesystem::create_symlink(dir_ + name, root + name);
    EXPECT_TRUE(PeftAdapter::ReadRanks(spec_, root).ok());
    for (const absl::Status& status : {PeftAdapter::ReadRanks(spec_, root, {root}).status(),
                                       PeftAdapter::Open(spec_, root, {root}).status()}) {
      EXPECT_THAT(status.message(), HasSubstr(root + name));
      EXPECT_THAT(status.message(), HasSubstr("outside"));
    }
  }
}

TEST_F(PeftErrorsTest, AnotherModelsAdapterIsRefusedWithTheTensorsName) {
  spec_ = *LoadModelSpec(GoldenModelDir("llama2"));
  EXPECT_THAT(Error(), HasSubstr("self_attn.k_proj.lora_B.weight is [16, 5], the model needs"));
}

TEST_F(PeftErrorsTest, LayersBeyondTheModelsLastAreRefused) {
  const int32_t last = --spec_.num_layers;
  spec_.layers.pop_back();
  EXPECT_THAT(Error(), HasSubstr(".layers." + std::to_string(last) + "."));
}

TEST_F(PeftErrorsTest, TheContentHashFollowsTensorsAndResultingScales) {
  const auto hash_with = [this](const std::string& key, const Json& value) {
    EXPECT_EQ(ErrorWith(key, value), "");
    return (*PeftAdapter::Open(spec_, dir_))->ContentHash();
  };
  const Sha256Digest hash =
      (*PeftAdapter::Open(spec_, kAdapters + "qwen2/patterns"))->ContentHash();
  EXPECT_EQ(hash_with("lora_dropout", 0.5), hash);
  EXPECT_NE(hash_with("lora_alpha", 9), hash);
  EXPECT_NE(hash_with("use_rslora", false), hash);
  EXPECT_NE(hash_with("alpha_pattern", Json::object()), hash);
  std::fstream file(dir_ + "/adapter_model.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-1, std::ios::end);
  const char last = static_cast<char>(file.get());
  file.seekp(-1, std::ios::end);
  file.put(static_cast<char>(last ^ 1));
  file.close();
  EXPECT_NE(hash_with("lora_dropout", 0.0), hash);
}

TEST_F(PeftErrorsTest, FilesThatAreNotThereOrCutAreErrors) {
  std::filesystem::resize_file(dir_ + "/adapter_model.safetensors", 30000);
  EXPECT_THAT(Error(), HasSubstr("adapter_model.safetensors"));
  std::filesystem::remove(dir_ + "/adapter_model.safetensors");
  EXPECT_THAT(Error(), HasSubstr("adapter_model.safetensors"));
  std::filesystem::remove(dir_ + "/adapter_config.json");
  dir_ += "/nowhere";
  EXPECT_THAT(PeftAdapter::Open(spec_, dir_).status().message(), HasSubstr("adapter_config.json"));
  dir_ = std::filesystem::path(dir_).parent_path();
}

// A copy of an adapter of gemma3_nested, whose tensors a test changes.
class PeftNamesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    spec_ = *LoadModelSpec(GoldenModelDir("gemma3"));
    Copy("patterns");
  }
  void Copy(const std::string& name) {
    WriteNestedAdapter(name, kNestings[0], folder_.path());
    tensors_ = ReadAdapterTensors(folder_.path());
  }
  // Opens the changed adapter; its header alone gives the same answer.
  absl::StatusOr<std::unique_ptr<PeftAdapter>> Open() const {
    WriteAdapterTensors(folder_.path(), tensors_);
    auto adapter = PeftAdapter::Open(spec_, folder_.path());
    const auto ranks = PeftAdapter::ReadRanks(spec_, folder_.path());
    EXPECT_EQ(ranks.status(), adapter.status());
    if (adapter.ok() && ranks.ok()) {
      EXPECT_EQ(*ranks, (*adapter)->ranks());
    }
    return adapter;
  }
  std::string Error() const { return std::string(Open().status().message()); }
  void Rename(const std::string& from, const std::string& to) {
    ASSERT_EQ(tensors_.count(from), 1u);
    tensors_[to] = tensors_[from];
    tensors_.erase(from);
  }

  const Folder folder_{"peft_names"};
  ModelSpec spec_;
  RawTensors tensors_;
  const std::string nested_ = "base_model.model.model.language_model.";
  const std::string older_ = "base_model.model.language_model.model.";
};

TEST_F(PeftNamesTest, TheNamesDoNotChangeTheAdapter) {
  const auto newer = Open();
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ((*newer)->num_left_out(), 0);
  for (const std::string& nesting : {kNestings[1], std::string("model.")}) {
    WriteNestedAdapter("patterns", nesting, folder_.path());
    const auto other = PeftAdapter::Open(spec_, folder_.path());
    ASSERT_TRUE(other.ok()) << nesting << ": " << other.status();
    EXPECT_EQ((*other)->ranks(), (*newer)->ranks());
    EXPECT_EQ((*other)->ContentHash(), (*newer)->ContentHash());
  }
}

// The patterns are written for the names of the file. Layer 0's MLP has rank 2 by a pattern that
// matches no name of the older kind.
TEST_F(PeftNamesTest, PatternsMatchTheNamesOfTheFile) {
  RawTensors renamed;
  for (const auto& [name, tensor] : tensors_) renamed[Renamed(name, nested_, older_)] = tensor;
  tensors_ = renamed;
  EXPECT_THAT(Error(), HasSubstr(older_ + "layers.0.mlp.gate_proj.lora_A.weight has rank 2, and"));
}

TEST_F(PeftNamesTest, ALinearHasOneName) {
  const std::string linear = "layers.2.self_attn.q_proj.";
  Rename(nested_ + linear + "lora_B.weight", older_ + linear + "lora_B.weight");
  EXPECT_THAT(Error(), HasSubstr("the file must name each linear in one way"));
  tensors_[older_ + linear + "lora_A.weight"] = tensors_.at(nested_ + linear + "lora_A.weight");
  EXPECT_THAT(Error(), HasSubstr("are of the same linear"));
  Copy("patterns");
  EXPECT_EQ(Error(), "");
  Rename(nested_ + linear + "lora_B.weight", nested_ + "layers.02.self_attn.q_proj.lora_B.weight");
  EXPECT_THAT(Error(), HasSubstr("layers.02.self_attn.q_proj.lora_B.weight is no LoRA tensor"));
}

TEST_F(PeftNamesTest, TheVisionTowerIsLeftOutWithAWarning) {
  Copy("plain");
  ASSERT_EQ(tensors_.size(), 7u * 2 * 2 + 4);
  // Nobody reads the values and types of what is left out.
  const std::string vision = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.";
  tensors_.at(vision + "q_proj.lora_A.weight").bytes.assign(3 * 16 * 2, '\xff');
  tensors_["base_model.model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight"] = {
      "I8", {2}, "ab"};
  tensors_["base_model.model.multi_modal_projector.linear.lora_B.weight"] = {"I8", {2}, "ab"};
  const LogCapture log;
  const auto adapter = Open();
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ((*adapter)->num_left_out(), 6);
  EXPECT_THAT(log.text(),
              HasSubstr(folder_.path() + ": 6 tensors of other parts than the language model"));
}

TEST_F(PeftNamesTest, WithoutTheLanguageModelAnAdapterIsRefused) {
  Copy("plain");
  std::erase_if(tensors_, [](const auto& entry) {
    return entry.first.find("vision_tower") == std::string::npos;
  });
  std::ofstream(folder_.path() + "/adapter_config.json")
      << R"({"peft_type": "LORA", "r": 3, "lora_alpha": 8})";
  EXPECT_THAT(Error(), HasSubstr("holds no tensors of the language model, only of the other parts "
                                 "of a multimodal model"));
}

// Only what text alone never uses is left out.
TEST_F(PeftNamesTest, WhatElseChangesTheTextIsRefused) {
  for (const std::string name :
       {"base_model.model.lm_head.lora_A.weight",
        "base_model.model.language_model.lm_head.lora_A.weight",
        "base_model.model.model.language_model.embed_tokens.lora_embedding_A",
        "base_model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.audio_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "vision_tower.layers.0.self_attn.q_proj.lora_A.weight"}) {
    tensors_[name] = {"F32", {1, 1}, std::string(4, '\0')};
    EXPECT_THAT(Error(), HasSubstr(name + " is no LoRA tensor of this model")) << name;
    EXPECT_THAT(Error(), HasSubstr("of base_model.model.model.layers.N, "
                                   "base_model.model.model.language_model.layers.N, "
                                   "base_model.model.language_model.model.layers.N"));
    tensors_.erase(name);
  }
  EXPECT_EQ(Error(), "");
}

TEST(PublicAdaptersTest, OthersAreRefusedByName) {
  REQUIRE_SHARED_DATA(data);
  const std::string shared = data + "/lora";
  const ModelSpec spec = *LoadModelSpec(GoldenModelDir("qwen2"));
  EXPECT_THAT(PeftAdapter::Open(spec, shared + "/gpt2-r8-cattn").status().message(),
              HasSubstr("fan_in_fan_out"));
  EXPECT_THAT(PeftAdapter::Open(spec, shared + "/opt-125m-r16-bf16").status().message(),
              HasSubstr("decoder.layers"));
  EXPECT_THAT(PeftAdapter::Open(spec, shared + "/qwen2.5-0.5b-instruct-r8-qv").status().message(),
              HasSubstr("q_proj"));
}

// A published adapter of qwen2.5-0.5b loads with a spec of that model's shape.
TEST(PublicAdaptersTest, QwensLoads) {
  REQUIRE_SHARED_DATA(data);
  const std::string shared = data + "/lora";
  ModelSpec spec = *LoadModelSpec(GoldenModelDir("qwen2"));
  spec.hidden = 896;
  spec.intermediate = 4864;
  spec.num_layers = 24;
  spec.heads = 14;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  const auto adapter = PeftAdapter::Open(spec, shared + "/qwen2.5-0.5b-instruct-r8-qv");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ((*adapter)->max_rank(), 8);
  const auto image = BuildAdapterImage(spec, {{adapter->get(), 1.0f}}, DType::kBF16, 196608);
  ASSERT_TRUE(image.ok()) << image.status();
  // Bytes: layers x rank x (inputs + outputs of q, inputs + outputs of v) x 2. The bound below adds
  // a line of 64 bytes for each scale.
  const int64_t exact = 24 * 8 * (896 + 896 + 896 + 128) * 2;
  EXPECT_LT(image->layout.num_bytes, exact * 103 / 100 + 24 * 2 * 8 * 64);
  EXPECT_LE(image->layout.num_pages, CeilDiv<int64_t>(image->layout.num_bytes, 196608) + 1);
}

}  // namespace
}  // namespace tessera::testing
