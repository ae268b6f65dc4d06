// Tests of the names under which KV leaves the process. Each row of the table assembles two
// engines, for a deployment and a changed deployment, and states whether the name of a prompt's
// first run (its first kRunTokens tokens, kvstore/page_hash.h) is the same in both.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "scheduler/device/assemble.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPromptTokens = kRunTokens;

void EditJson(const std::string& path, const std::function<void(nlohmann::json*)>& edit) {
  nlohmann::json json = nlohmann::json::parse(std::ifstream(path));
  edit(&json);
  std::ofstream(path) << json.dump(1);
}

// A deployment: a folder with copies of a model and of its adapters, the options of the engine, and
// a request.
struct Deployment {
  std::string dir;
  AssembleOptions options;
  // Names and folders of the adapters to register.
  std::map<std::string, std::string> adapters;
  std::vector<AdapterUse> uses;
  int32_t max_rank = 0;
  Request request;

  std::string model_dir() const { return dir + "/model"; }
  std::string adapter_dir(const std::string& name) const { return dir + "/" + name; }
};

// Returns a deployment of a small model with sliding windows and two adapters.
Deployment NewDeployment(const std::string& dir) {
  Deployment d;
  d.dir = dir;
  fs::remove_all(dir);
  fs::create_directories(dir);
  fs::copy(GoldenModelDir("qwen2"), d.model_dir());
  EditJson(d.model_dir() + "/config.json", [](nlohmann::json* config) {
    (*config)["use_sliding_window"] = true;
    (*config)["sliding_window"] = 64;
    (*config)["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
    (*config)["max_position_embeddings"] = 512;
  });
  for (const std::string name : {"plain", "patterns"}) {
    fs::copy("tests/golden/adapters/qwen2/" + name, d.adapter_dir(name));
    d.adapters[name] = d.adapter_dir(name);
  }
  d.options.models = {{"m", d.model_dir()}};
  d.options.backend = "ref";
  d.options.weight_dtype = WeightDtype::kF32;
  d.options.page_tokens = 16;
  d.options.kv_cache_bytes = 1 << 20;
  d.options.engine.max_num_seqs = 2;
  d.options.engine.max_num_batched_tokens = 64;
  d.options.engine.deployment_secret = "secret";
  for (int64_t i = 0; i < kPromptTokens; ++i) {
    d.request.prompt.push_back(static_cast<TokenId>(i * 7 % 150));
  }
  return d;
}

// The name of the first run of the deployment's request.
PageHash FirstRunOf(const Deployment& d) {
  const auto plan = PlanMemory(d.options);
  CHECK(plan.ok()) << plan.status();
  auto device = Assemble(d.options, *plan);
  CHECK(device.ok()) << device.status();
  EngineStats stats(device->engine.models.size());
  const EngineCore core(device->engine, std::move(device->kv), std::move(device->runner), nullptr,
                        &stats, nullptr);
  std::vector<AdapterSource> sources;
  for (const auto& [name, path] : d.adapters) sources.push_back({name, "", 0, path});
  const absl::Status registered = device->adapters->Register(sources);
  CHECK(registered.ok()) << registered;
  Request request = d.request;
  if (!d.uses.empty()) {
    auto adapter = device->adapters->Resolve(0, d.uses, d.max_rank);
    CHECK(adapter.ok()) << adapter.status();
    request.adapter = *std::move(adapter);
    CHECK(!core.ExportRoot(request).has_value()) << "the adapter was not read yet";
    const auto image = device->adapters->Build(request.adapter.id);
    CHECK(image.ok()) << image.status();
  }
  const std::optional<PageHash> root = core.ExportRoot(request);
  CHECK(root.has_value());
  return RunNames(*root, request.prompt).front();
}

struct Row {
  const char* what;
  bool is_same;
  std::function<void(Deployment*)> change;          // changes the second deployment
  std::function<void(Deployment*)> both = nullptr;  // changes both first; may be null
};

void UsePlain(Deployment* d) { d->uses = {{"plain", "", {}}}; }
void UseBlend(Deployment* d) { d->uses = {{"plain", "", 0.5f}, {"patterns", "", 0.25f}}; }

void EditConfig(Deployment* d, const std::string& key, const nlohmann::json& value) {
  EditJson(d->model_dir() + "/config.json", [&](nlohmann::json* json) { (*json)[key] = value; });
}

void EditAdapterConfig(Deployment* d, const std::string& key, const nlohmann::json& value) {
  EditJson(d->adapter_dir("plain") + "/adapter_config.json",
           [&](nlohmann::json* json) { (*json)[key] = value; });
}

void FlipLastByte(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-1, std::ios::end);
  const char last = static_cast<char>(file.get());
  file.seekp(-1, std::ios::end);
  file.put(static_cast<char>(last ^ 1));
  CHECK(file.good()) << path;
}

void Touch(const std::string& path) {
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::hours(1));
}

void ChangeOneWeightByte(Deployment* d) {
  RawTensors tensors = ReadRawTensors(d->model_dir());
  RawTensor& tensor = tensors.at("model.layers.2.mlp.down_proj.weight");
  tensor.bytes[tensor.bytes.size() / 2] ^= 1;
  WriteRawTensors(d->model_dir(), tensors);
}

const std::vector<Row>& ModelRows() {
  static const std::vector<Row> rows = {
      {"the same files in another folder", true, [](Deployment*) {}},
      {"the model has another name", true, [](Deployment* d) { d->options.models[0].name = "n"; }},
      {"the checkpoint has another header", true,
       [](Deployment* d) {
         WriteRawTensors(d->model_dir(), ReadRawTensors(d->model_dir()), /*header_padding=*/8);
       }},
      {"one byte of the weights", false, ChangeOneWeightByte},
      {"dtype of the weights", false,
       [](Deployment* d) { d->options.weight_dtype = WeightDtype::kBF16; },
       [](Deployment* d) { d->options.kv_dtype = KvDtype::kBF16; }},
      {"int8 weights", false, [](Deployment* d) { d->options.weight_dtype = WeightDtype::kI8; },
       [](Deployment* d) { d->options.kv_dtype = KvDtype::kF32; }},
      {"KV in bfloat16", false, [](Deployment* d) { d->options.kv_dtype = KvDtype::kBF16; }},
      {"KV in int8", false, [](Deployment* d) { d->options.kv_dtype = KvDtype::kI8; }},
      {"KV dtype by default", true, [](Deployment* d) { d->options.kv_dtype = KvDtype::kF32; }},
      {"rope", false,
       [](Deployment* d) {
         EditConfig(d, "rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}});
       }},
      {"epsilon of the norms", false, [](Deployment* d) { EditConfig(d, "rms_norm_eps", 1e-5); }},
      {"window", false, [](Deployment* d) { EditConfig(d, "sliding_window", 63); }},
      {"layers with a window", false,
       [](Deployment* d) {
         EditConfig(d, "layer_types", {"sliding_attention", "sliding_attention", "full_attention"});
       }},
      {"a key of the configuration that no number depends on", true,
       [](Deployment* d) { EditConfig(d, "initializer_range", 0.5); }},
      {"defaults of sampling", true,
       [](Deployment* d) {
         EditJson(d->model_dir() + "/generation_config.json",
                  [](nlohmann::json* json) { (*json)["temperature"] = 0.25; });
       }},
      {"tokens that a page holds", true, [](Deployment* d) { d->options.page_tokens = 32; }},
      {"size of the pool and of steps", true,
       [](Deployment* d) {
         d->options.kv_cache_bytes = 2 << 20;
         d->options.engine.max_num_batched_tokens = 100;
         d->options.engine.max_num_seqs = 4;
       }},
      {"another model in the pool", true,
       [](Deployment* d) {
         d->options.page_tokens = 0;
         d->options.models.push_back({"second", GoldenModelDir("llama32")});
       }},
      {"the model is the second of the pool", true,
       [](Deployment* d) {
         d->options.page_tokens = 0;
         d->options.models = {{"first", GoldenModelDir("llama32")}, {"m", d->model_dir()}};
         d->adapters.clear();
         d->request.model = 1;
       }},
  };
  return rows;
}

const std::vector<Row>& RequestRows() {
  static const std::vector<Row> rows = {
      {"secret", false, [](Deployment* d) { d->options.engine.deployment_secret = "other"; }},
      {"tenant", false, [](Deployment* d) { d->request.tenant = "other"; }},
      {"salt", false, [](Deployment* d) { d->request.salt = "other"; }},
      {"the same text as tenant and as salt", false,
       [](Deployment* d) { std::swap(d->request.tenant, d->request.salt); },
       [](Deployment* d) { d->request.tenant = "x"; }},
      {"sampling and client's name", true,
       [](Deployment* d) {
         d->request.sampling.seed = 7;
         d->request.name = "name";
         d->request.priority = Priority::kHigh;
       }},
      {"the last token", false, [](Deployment* d) { d->request.prompt.back() += 1; }},
  };
  return rows;
}

const std::vector<Row>& AdapterRows() {
  static const std::vector<Row> rows = {
      {"an adapter", false, UsePlain},
      {"an adapter that is not used", true, [](Deployment* d) { d->adapters.erase("plain"); }},
      {"the adapter in another folder", true, [](Deployment*) {}, UsePlain},
      {"another adapter", false,
       [](Deployment* d) {
         d->uses = {{"patterns", "", {}}};
       },
       UsePlain},
      {"the adapter's files were touched", true,
       [](Deployment* d) {
         Touch(d->adapter_dir("plain") + "/adapter_config.json");
         Touch(d->adapter_dir("plain") + "/adapter_model.safetensors");
       },
       UsePlain},
      {"the adapter has another name", true,
       [](Deployment* d) {
         d->adapters["other"] = d->adapter_dir("plain");
         d->adapters.erase("plain");
         d->uses = {{"other", "", {}}};
       },
       UsePlain},
      {"one byte of the adapter's tensors", false,
       [](Deployment* d) { FlipLastByte(d->adapter_dir("plain") + "/adapter_model.safetensors"); },
       UsePlain},
      {"alpha of the adapter", false, [](Deployment* d) { EditAdapterConfig(d, "lora_alpha", 9); },
       UsePlain},
      {"scaling of the adapter", false,
       [](Deployment* d) { EditAdapterConfig(d, "use_rslora", true); }, UsePlain},
      {"a pattern that gives the same scales", true,
       [](Deployment* d) {
         EditAdapterConfig(d, "alpha_pattern", {{"q_proj", 8}});
       },
       UsePlain},
      {"a key of the adapter's configuration that no number depends on", true,
       [](Deployment* d) { EditAdapterConfig(d, "lora_dropout", 0.5); }, UsePlain},
      {"dtype of adapters", false,
       [](Deployment* d) { d->options.adapter_dtype = AdapterDtype::kBF16; }, UsePlain},
      {"the same blend", true, [](Deployment*) {}, UseBlend},
      {"order of a blend", false, [](Deployment* d) { std::swap(d->uses[0], d->uses[1]); },
       UseBlend},
      {"weight of a blend", false, [](Deployment* d) { d->uses[1].weight = 0.125f; }, UseBlend},
      {"rank of a blend", false, [](Deployment* d) { d->max_rank = 4; }, UseBlend},
      {"weight 1 said outright", true, [](Deployment* d) { d->uses[0].weight = 1.0f; }, UsePlain},
      {"weight of one adapter", false, [](Deployment* d) { d->uses[0].weight = 0.5f; }, UsePlain},
  };
  return rows;
}

class IdentityTest : public ::testing::Test {
 protected:
  ~IdentityTest() override { fs::remove_all(root_); }

  void Check(const std::vector<Row>& rows) const {
    for (const Row& row : rows) {
      Deployment first = NewDeployment(root_ + "/first");
      Deployment second = NewDeployment(root_ + "/second");
      if (row.both != nullptr) {
        row.both(&first);
        row.both(&second);
      }
      row.change(&second);
      EXPECT_EQ(FirstRunOf(first) == FirstRunOf(second), row.is_same) << row.what;
    }
  }

 private:
  const std::string root_ = ::testing::TempDir() + "/identity_" + std::to_string(getpid()) + "_" +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(IdentityTest, NamesSayWhatTheModelComputes) { Check(ModelRows()); }
TEST_F(IdentityTest, NamesSayForWhomItIs) { Check(RequestRows()); }
TEST_F(IdentityTest, NamesSayWhatTheAdapterHolds) { Check(AdapterRows()); }

}  // namespace
}  // namespace tessera::testing
