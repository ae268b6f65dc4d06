// Tests of the Control service, health, reflection and drain over real sockets.
#include <grpcpp/impl/client_unary_call.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <optional>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/call/limits.h"
#include "server/grpc/byte_buffers.h"
#include "server/grpc/control_service.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class ControlTest : public ServerTest {
 protected:
  // Makes a unary call by method name with the bytes of a request, for services without our stubs.
  grpc::Status CallRaw(const std::string& method_name, const std::string& request,
                       std::string* response) {
    grpc::Slice slice(request);
    const grpc::ByteBuffer buffer(&slice, 1);
    const auto channel = NewChannel();
    grpc::internal::RpcMethod method(method_name.c_str(), grpc::internal::RpcMethod::NORMAL_RPC,
                                     channel);
    const auto context = NewContext();
    grpc::ByteBuffer result;
    const grpc::Status status =
        grpc::internal::BlockingUnaryCallImpl<grpc::ByteBuffer, grpc::ByteBuffer>(
            channel.get(), method, context.get(), buffer, &result)
            .status();
    std::vector<grpc::Slice> slices;
    response->clear();
    if (status.ok() && result.Dump(&slices).ok()) {
      for (const grpc::Slice& piece : slices) {
        response->append(reinterpret_cast<const char*>(piece.begin()), piece.size());
      }
    }
    return status;
  }
  // Returns the health status: 1 SERVING, 2 NOT_SERVING (grpc.health.v1), -1 error.
  int Health(const std::string& service) {
    std::string request;
    if (!service.empty()) {
      request = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
    }
    std::string response;
    const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", request, &response);
    if (!status.ok() || response.size() != 2) return -1;
    return response[1];
  }
};

TEST_F(ControlTest, Capabilities) {
  v1::GetCapabilitiesResponse response;
  ASSERT_TRUE(control_->GetCapabilities(NewContext().get(), {}, &response).ok());
  EXPECT_EQ(response.version(), "test");
  EXPECT_EQ(response.device(), "none");
  const std::set<std::string> fields(response.request_fields().begin(),
                                     response.request_fields().end());
  for (const char* name :
       {"tessera.v1.GenerateRequest.text", "tessera.v1.SamplingParams.top_k",
        "tessera.v1.ChatMessage.role", "tessera.v1.Part.document_id",
        "tessera.v1.DetokenizeRequest.token_ids", "tessera.v1.WatchLoadRequest.interval_ms",
        "tessera.v1.CancelRequest.request_id", "tessera.v1.DrainRequest.exit"}) {
    EXPECT_TRUE(fields.contains(name)) << name;
  }
  EXPECT_EQ(response.limits().max_n(), 128);
  EXPECT_EQ(response.limits().max_message_bytes(), 64 << 20);
  EXPECT_TRUE(fields.contains("tessera.v1.LoadAdapterRequest.name"));
  EXPECT_EQ(response.limits().max_embed_inputs(), 256);
  // 0 means that the limit is derived from each model's context, because it is not configured.
  EXPECT_EQ(response.limits().max_prompt_bytes(), 0);
  context_->max_prompt_bytes = 1000;
  ASSERT_TRUE(control_->GetCapabilities(NewContext().get(), {}, &response).ok());
  EXPECT_EQ(response.limits().max_prompt_bytes(), 1000);
}

TEST_F(ControlTest, Models) {
  v1::ListModelsResponse response;
  ASSERT_TRUE(control_->ListModels(NewContext().get(), {}, &response).ok());
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "bytes");
  EXPECT_TRUE(response.models(0).is_default());
  EXPECT_TRUE(response.models(0).has_chat_template());
  EXPECT_EQ(response.models(0).vocab_size(), 300);
  EXPECT_EQ(response.models(0).max_model_len(), kFakeContext);
  EXPECT_FALSE(response.models(1).is_default());
  EXPECT_FALSE(response.models(1).has_chat_template());
}

TEST_F(ControlTest, Load) {
  v1::GetLoadResponse response;
  ASSERT_TRUE(control_->GetLoad(NewContext().get(), {}, &response).ok());
  EXPECT_EQ(response.running(), 0);
  EXPECT_EQ(response.waiting(), 2);
  EXPECT_EQ(response.paused(), 3);
  EXPECT_EQ(response.queue_delay_us(), 1'500'000);
  EXPECT_EQ(response.pool_bytes(), 100);
  EXPECT_EQ(response.kv_cache_usage(), 0.25);
  EXPECT_FALSE(response.draining());
}

TEST_F(ControlTest, WatchLoad) {
  v1::WatchLoadRequest request;
  request.set_interval_ms(100);
  const auto context = NewContext();
  const auto reader = control_->WatchLoad(context.get(), request);
  const auto begin = std::chrono::steady_clock::now();
  v1::GetLoadResponse response;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(reader->Read(&response));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(250));
  context->TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  request.set_interval_ms(5);
  const auto refused_context = NewContext();
  const auto refused = control_->WatchLoad(refused_context.get(), request);
  EXPECT_FALSE(refused->Read(&response));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ControlTest, WatchLoadEndsWithTheServer) {
  const auto context = NewContext();
  const auto reader = control_->WatchLoad(context.get(), {});
  v1::GetLoadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  server_->Shutdown(0);
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(ControlTest, CancelNeedsAName) {
  v1::CancelResponse response;
  const grpc::Status status = control_->Cancel(NewContext().get(), {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(FactsOf(status).bad_field, "request_id");
}

TEST_F(ControlTest, Adapters) {
  const std::string dir = ::testing::TempDir() + "/control_" + std::to_string(getpid());
  for (const char* name : {"red", "blue"}) {
    std::filesystem::create_directories(dir + "/" + name);
    std::ofstream(dir + "/" + name + "/adapter_config.json") << "{}";
    std::ofstream(dir + "/" + name + "/adapter_model.safetensors") << name;
  }
  const auto context = NewContext();
  const auto watch = control_->WatchAdapters(context.get(), {});
  v1::ListAdaptersResponse list;
  ASSERT_TRUE(watch->Read(&list));
  EXPECT_EQ(list.adapters_size(), 0);

  v1::RegisterAdaptersRequest request;
  v1::RegisterAdaptersResponse registered;
  request.add_adapters()->set_path(dir);
  request.mutable_adapters(0)->set_name("both");
  grpc::Status status = control_->RegisterAdapters(NewContext().get(), request, &registered);
  EXPECT_EQ(FactsOf(status).bad_field, "adapters[0].name");
  request.mutable_adapters(0)->clear_name();
  request.mutable_adapters(0)->set_revision("v2");
  request.add_adapters()->set_path(dir + "/red");
  request.mutable_adapters(1)->set_name("green");
  request.mutable_adapters(1)->set_model("plain");
  status = control_->RegisterAdapters(NewContext().get(), request, &registered);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(registered.registered(), 3);
  ASSERT_TRUE(watch->Read(&list));
  ASSERT_EQ(list.adapters_size(), 3);
  context->TryCancel();
  ASSERT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
  ASSERT_EQ(list.adapters_size(), 3);
  EXPECT_EQ(list.adapters(0).name(), "blue");
  EXPECT_EQ(list.adapters(0).revision(), "v2");
  EXPECT_EQ(list.adapters(0).model(), "bytes");
  EXPECT_EQ(list.adapters(0).residency(), v1::ADAPTER_RESIDENCY_DISK);
  EXPECT_FALSE(list.adapters(0).loaded());
  EXPECT_FALSE(list.adapters(0).has_idle_ms());
  EXPECT_EQ(list.adapters(2).name(), "green");
  EXPECT_EQ(list.adapters(2).model(), "plain");

  v1::LoadAdapterRequest load;
  v1::LoadAdapterResponse loaded;
  load.set_name("yellow");
  status = control_->LoadAdapter(NewContext().get(), load, &loaded);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(FactsOf(status).reason, "ADAPTER_NOT_FOUND");
  load.set_name("red");
  EXPECT_TRUE(control_->LoadAdapter(NewContext().get(), load, &loaded).ok());
  v1::PinAdapterRequest pin;
  v1::PinAdapterResponse pinned;
  pin.set_name("red");
  EXPECT_TRUE(control_->PinAdapter(NewContext().get(), pin, &pinned).ok());
  pin.set_pinned(false);
  EXPECT_TRUE(control_->PinAdapter(NewContext().get(), pin, &pinned).ok());
  v1::UnloadAdapterRequest unload;
  v1::UnloadAdapterResponse unloaded;
  unload.set_name("green");
  EXPECT_TRUE(control_->UnloadAdapter(NewContext().get(), unload, &unloaded).ok()) << "not loaded";
  // A blend is listed while it is in memory; its name is its recipe.
  const ResolvedAdapter in_pool =
      adapters_->Resolve(0, {{"red", "", 0.6f}, {"blue", "", 0.4f}}).value();
  const AdapterId blend = in_pool.id;
  ASSERT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
  EXPECT_EQ(list.adapters_size(), 3);
  adapters_->status(blend)->residency = AdapterResidency::kPool;
  ASSERT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
  ASSERT_EQ(list.adapters_size(), 4);
  EXPECT_EQ(list.adapters(3).name(), "red@v2*0.6+blue@v2*0.4");
  EXPECT_EQ(list.adapters(3).model(), "bytes");
  EXPECT_TRUE(list.adapters(3).loaded());
  unload.set_name(list.adapters(3).name());
  EXPECT_TRUE(control_->UnloadAdapter(NewContext().get(), unload, &unloaded).ok());
  unload.set_name("red@v2*0.6");
  status = control_->UnloadAdapter(NewContext().get(), unload, &unloaded);
  EXPECT_EQ(FactsOf(status).reason, "ADAPTER_NOT_FOUND");
  const std::vector<std::pair<AdapterId, std::string>> want = {
      {0, "load"}, {0, "pin"}, {0, "unpin"}, {blend, "unload"}};
  EXPECT_EQ(adapter_verbs_, want);

  // A load that finds no room ends at the client's deadline. Its wait is then gone, and a later
  // answer of the engine is ignored.
  holds_loads_ = true;
  const auto context_of_late = NewContext();
  context_of_late->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  status = control_->LoadAdapter(context_of_late.get(), load, &loaded);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const AdapterWait held = held_load_.get_future().get();
  WaitFor("the wait to be gone", [&] { return held.gone(); });
  held.done(absl::OkStatus());
  EXPECT_EQ(adapters_->num_versions(), 2);  // red, the blend

  request.mutable_adapters(0)->set_path(dir + "/nowhere");
  status = control_->RegisterAdapters(NewContext().get(), request, &registered);
  EXPECT_EQ(FactsOf(status).reason, "ADAPTER_NOT_FOUND");
  request.clear_adapters();
  request.add_adapters()->set_path(dir + "/red");
  request.mutable_adapters(0)->set_name("plain");
  status = control_->RegisterAdapters(NewContext().get(), request, &registered);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  std::filesystem::remove_all(dir);
}

// Adapters below a folder that the test deletes. Registers one, "red".
class AdapterControlTest : public ControlTest {
 protected:
  void SetUp() override {
    ControlTest::SetUp();
    dir_ = ::testing::TempDir() + "/control_adapters_" + std::to_string(getpid());
    MakeAdapter("/red");
    ASSERT_TRUE(Register(dir_ + "/red").ok());
    id_ = adapters_->Resolve(0, {{"red", "", {}}})->id;
  }
  void TearDown() override {
    ControlTest::TearDown();
    std::filesystem::remove_all(dir_);
  }

  void MakeAdapter(const std::string& path) const {
    std::filesystem::create_directories(dir_ + path);
    std::ofstream(dir_ + path + "/adapter_config.json") << "{}";
    std::ofstream(dir_ + path + "/adapter_model.safetensors") << "bytes";
  }
  grpc::Status Register(const std::string& path, const std::string& name = "") {
    v1::RegisterAdaptersRequest request;
    v1::RegisterAdaptersResponse response;
    request.add_adapters()->set_path(path);
    request.mutable_adapters(0)->set_name(name);
    return control_->RegisterAdapters(NewContext().get(), request, &response);
  }
  grpc::Status Unload(const std::string& name, bool unpin) {
    v1::UnloadAdapterRequest request;
    v1::UnloadAdapterResponse response;
    request.set_name(name);
    request.set_unpin(unpin);
    return control_->UnloadAdapter(NewContext().get(), request, &response);
  }
  grpc::Status Unregister(const std::string& name) {
    v1::UnregisterAdapterRequest request;
    v1::UnregisterAdapterResponse response;
    request.set_name(name);
    return control_->UnregisterAdapter(NewContext().get(), request, &response);
  }
  v1::ListAdaptersResponse List() {
    v1::ListAdaptersResponse list;
    EXPECT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
    return list;
  }

  using Verbs = std::vector<std::pair<AdapterId, std::string>>;
  std::string dir_;
  AdapterId id_ = kNoAdapter;
};

TEST_F(AdapterControlTest, APinnedAdapterIsUnloadedOnlyIfAskedTo) {
  adapters_->status(id_)->pinned = true;
  const grpc::Status refused = Unload("red", false);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(FactsOf(refused).reason, "ADAPTER_PINNED");
  EXPECT_TRUE(adapter_verbs_.empty());
  EXPECT_TRUE(Unload("red", true).ok());
  EXPECT_EQ(adapter_verbs_, Verbs({{id_, "unpin, unload"}}));
  adapters_->status(id_)->pinned = false;
  EXPECT_TRUE(Unload("red", false).ok());
  EXPECT_EQ(adapter_verbs_.back().second, "unload");
}

// The files change while the adapter is pinned: the pin is on the old version.
TEST_F(AdapterControlTest, UnpinAndUnloadReachAllVersions) {
  const AdapterHold in_pool = adapters_->Hold(id_);
  std::ofstream(dir_ + "/red/adapter_model.safetensors") << "other bytes";
  adapters_->CheckFilesNow();
  const AdapterId newer = adapters_->Resolve(0, {{"red", "", {}}})->id;
  ASSERT_NE(newer, id_);
  v1::PinAdapterRequest pin;
  v1::PinAdapterResponse pinned;
  pin.set_name("red");
  pin.set_pinned(false);
  EXPECT_TRUE(control_->PinAdapter(NewContext().get(), pin, &pinned).ok());
  EXPECT_TRUE(Unload("red", false).ok());
  std::sort(adapter_verbs_.begin(), adapter_verbs_.end());
  EXPECT_EQ(adapter_verbs_,
            Verbs({{id_, "unload"}, {id_, "unpin"}, {newer, "unload"}, {newer, "unpin"}}));
}

TEST_F(AdapterControlTest, AnUnregisteredAdapterIsNotFound) {
  const ResolvedAdapter blend = adapters_->Resolve(0, {{"red", "", 0.5f}}).value();
  ASSERT_TRUE(Unregister("red").ok());
  std::sort(adapter_verbs_.begin(), adapter_verbs_.end());
  EXPECT_EQ(adapter_verbs_, Verbs({{id_, "unpin, unload"}, {blend.id, "unpin, unload"}}));
  EXPECT_EQ(List().adapters_size(), 0);
  const grpc::Status again = Unregister("red");
  EXPECT_EQ(again.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(FactsOf(again).reason, "ADAPTER_NOT_FOUND");
  v1::GenerateRequest request = TextRequest("abc");
  request.add_adapters()->set_name("red");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  request.mutable_adapters(0)->set_weight(0.5f);
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Register(dir_ + "/red").ok());
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::OK);
}

TEST_F(AdapterControlTest, TheListSaysWhatIsWrongWithFiles) {
  EXPECT_EQ(List().adapters(0).files(), v1::ADAPTER_FILES_PRESENT);
  EXPECT_EQ(List().adapters(0).rank(), kAnyFacts.rank) << "known before the first load";
  EXPECT_EQ(List().adapters(0).bytes(), kAnyFacts.bytes);
  adapters_->status(id_)->residency = AdapterResidency::kPool;
  std::filesystem::rename(dir_ + "/red", dir_ + "/moved");
  adapters_->CheckFilesNow();
  EXPECT_TRUE(List().adapters(0).loaded());
  EXPECT_EQ(List().adapters(0).files(), v1::ADAPTER_FILES_MISSING);
  EXPECT_NE(List().adapters(0).files_error().find("/red/adapter_config.json"), std::string::npos);
  v1::GenerateRequest request = TextRequest("abc");
  request.add_adapters()->set_name("red");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::OK) << "it is in memory";
  adapters_->status(id_)->residency = AdapterResidency::kDisk;
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(AdapterControlTest, RegistrationsReadBelowTheRootsOnly) {
  MakeAdapter("/in/blue");
  MakeAdapter("/out/green");
  context_->adapter_roots = {dir_ + "/in"};
  EXPECT_TRUE(Register(dir_ + "/in").ok());
  EXPECT_TRUE(Register(dir_ + "/in/blue").ok());
  for (const char* path : {"/out/green", "/in/../out/green", "/out/none", ""}) {
    const grpc::Status refused = Register(dir_ + path);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED) << path;
    EXPECT_EQ(FactsOf(refused).reason, "OUTSIDE_ADAPTER_ROOTS");
  }
  const grpc::Status nul = Register(dir_ + std::string("/in/blue\0", 9));
  EXPECT_EQ(nul.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << nul.error_message();
}

TEST_F(AdapterControlTest, NamesThatWouldBreakTheListAreRefused) {
  for (const char* name : {"z*0.5+k*0.5", "a\nb", "a=b", " a", "-a"}) {
    const grpc::Status refused = Register(dir_ + "/red", name);
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_EQ(FactsOf(refused).bad_field, "adapters[0].name") << name;
    MakeAdapter(std::string("/bad/") + name);
    const grpc::Status found = Register(dir_ + "/bad");
    EXPECT_EQ(found.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_NE(found.error_message().find("renaming the folder"), std::string::npos);
    std::filesystem::remove_all(dir_ + "/bad");
  }
  EXPECT_EQ(List().adapters_size(), 1);
}

TEST_F(AdapterControlTest, AFolderIsRegisteredWithoutWhatCannotBeLoaded) {
  MakeAdapter("/blue");
  MakeAdapter("/half");
  std::filesystem::remove(dir_ + "/half/adapter_model.safetensors");
  v1::RegisterAdaptersRequest request;
  v1::RegisterAdaptersResponse response;
  request.add_adapters()->set_path(dir_);
  ASSERT_TRUE(control_->RegisterAdapters(NewContext().get(), request, &response).ok());
  EXPECT_EQ(response.registered(), 2);
  ASSERT_EQ(response.skipped_size(), 1);
  EXPECT_EQ(response.skipped(0).rfind("adapter half: ", 0), 0u) << response.skipped(0);
  EXPECT_NE(response.skipped(0).find("/half/adapter_model"), std::string::npos);
  EXPECT_EQ(List().adapters_size(), 2);
  EXPECT_EQ(Register(dir_ + "/half").error_code(), grpc::StatusCode::NOT_FOUND) << "it is named";
  // A name in the request names the adapter, even if it is in a folder of adapters.
  MakeAdapter("/few/one");
  std::filesystem::remove(dir_ + "/few/one/adapter_model.safetensors");
  EXPECT_EQ(Register(dir_ + "/few", "one").error_code(), grpc::StatusCode::NOT_FOUND);

  for (int i = 0; i < 101; ++i) {
    MakeAdapter(absl::StrCat("/bad-", i));
    std::filesystem::remove(absl::StrCat(dir_, "/bad-", i, "/adapter_model.safetensors"));
  }
  ASSERT_TRUE(control_->RegisterAdapters(NewContext().get(), request, &response).ok());
  ASSERT_EQ(response.skipped_size(), 101);
  EXPECT_EQ(response.skipped(100), "and 2 more");
}

TEST_F(AdapterControlTest, ARevisionThatWouldBreakTheListIsRefused) {
  v1::RegisterAdaptersRequest request;
  v1::RegisterAdaptersResponse response;
  request.add_adapters()->set_path(dir_);
  request.mutable_adapters(0)->set_revision("a+b");
  const grpc::Status refused = control_->RegisterAdapters(NewContext().get(), request, &response);
  EXPECT_EQ(FactsOf(refused).bad_field, "adapters[0].revision");
}

// A call that waits for an adapter holds its version, even a blend that no other call uses.
TEST_F(ControlTest, AWaitForABlendHoldsIt) {
  const std::string dir = ::testing::TempDir() + "/control_wait_" + std::to_string(getpid());
  std::filesystem::create_directories(dir);
  for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    std::ofstream(dir + file) << "{}";
  }
  ASSERT_TRUE(adapters_->Register({{"red", "", 0, dir}}).ok());
  std::optional<ResolvedAdapter> blend = adapters_->Resolve(0, {{"red", "", 0.5f}}).value();
  holds_loads_ = true;
  v1::LoadAdapterRequest load;
  load.set_name("red*0.5");
  grpc::Status status;
  std::thread client([&] {
    v1::LoadAdapterResponse loaded;
    status = control_->LoadAdapter(NewContext().get(), load, &loaded);
  });
  {
    const AdapterWait wait = held_load_.get_future().get();
    blend.reset();
    EXPECT_EQ(adapters_->num_versions(), 1);
    wait.done(absl::OkStatus());
    client.join();
  }
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(adapters_->num_versions(), 0);
  std::filesystem::remove_all(dir);
}

// A server whose disk blocks until the test releases it.
class SlowDiskTest : public ControlTest {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/control_disk_" + std::to_string(getpid());
    std::filesystem::create_directories(dir_);
    std::ofstream(dir_ + "/adapter_config.json") << "{}";
    adapter_options_.check_interval_us = 0;
    adapter_options_.identity = [this, answer = answer_.get_future().share()](const std::string&) {
      asked_.set_value();
      answer.wait();
      return std::string("files");
    };
    Start({}, {});
    slow_ = std::thread([this] { slow_status_ = Register(dir_, ""); });
    asked_.get_future().wait();
  }
  void TearDown() override {
    ControlTest::TearDown();
    std::filesystem::remove_all(dir_);
  }

  grpc::Status Register(const std::string& path, const std::string& name) {
    v1::RegisterAdaptersRequest request;
    v1::RegisterAdaptersResponse registered;
    request.add_adapters()->set_path(path);
    request.mutable_adapters(0)->set_name(name);
    return control_->RegisterAdapters(NewContext().get(), request, &registered);
  }
  void LetTheDiskAnswer() {
    answer_.set_value();
    slow_.join();
    EXPECT_TRUE(slow_status_.ok()) << slow_status_.error_message();
  }
  int NumListed() {
    v1::ListAdaptersResponse list;
    EXPECT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
    return list.adapters_size();
  }

  std::string dir_;
  std::promise<void> asked_;
  std::promise<void> answer_;
  std::thread slow_;  // a client that registers the adapter at dir_
  grpc::Status slow_status_;
};

TEST_F(SlowDiskTest, HoldsUpRegistrationsAlone) {
  EXPECT_EQ(NumListed(), 0);
  LetTheDiskAnswer();
  EXPECT_EQ(NumListed(), 1);
}

// Waiting registrations are limited to 16 MiB, so the seventeenth request of about 1 MiB is
// refused.
TEST_F(SlowDiskTest, RefusesRegistrationsThatAreTooMany) {
  std::promise<grpc::Status> first;
  std::atomic<int> num_answers{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 17; ++i) {
    clients.emplace_back([&] {
      const grpc::Status status = Register(dir_, std::string(1'000'000, 'x'));
      if (num_answers.fetch_add(1) == 0) return first.set_value(status);
      EXPECT_EQ(FactsOf(status).bad_field, "adapters[0].name");
    });
  }
  const grpc::Status refused = first.get_future().get();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(FactsOf(refused).reason, "TOO_MANY_REGISTRATIONS");
  EXPECT_EQ(NumListed(), 0);
  LetTheDiskAnswer();
  for (std::thread& client : clients) client.join();
}

TEST_F(ControlTest, DrainRefusesNewCallsAndFinishesRunningOnes) {
  Start({.held = true}, {});
  EXPECT_EQ(Health(""), 1);
  EXPECT_EQ(Health("tessera.v1.Inference"), 1);
  StreamResult running;
  std::thread reader([&] { running = Generate(TextRequest("abc", 6)); });
  WaitFor("the submission", [&] { return generator_->num_live() == 1; });
  v1::DrainResponse response;
  ASSERT_TRUE(control_->Drain(NewContext().get(), {}, &response).ok());
  EXPECT_EQ(response.calls(), 1);
  EXPECT_EQ(Health(""), 2);
  EXPECT_EQ(Health("tessera.v1.Inference"), 2);
  const StreamResult refused = Generate(TextRequest("abc"));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(FactsOf(refused.status).reason, "DRAINING");
  EXPECT_GT(FactsOf(refused.status).retry_us, 0);
  v1::GetLoadResponse load;
  ASSERT_TRUE(control_->GetLoad(NewContext().get(), {}, &load).ok());
  EXPECT_TRUE(load.draining());
  generator_->Release();
  reader.join();
  running.ExpectWellFormed();
  EXPECT_EQ(running.Text(), "abca");
  WaitFor("the calls to close", [&] { return server_->num_open_calls() == 0; });
  EXPECT_FALSE(context_->exit_requested.load());
  v1::DrainRequest exit;
  exit.set_exit(true);
  ASSERT_TRUE(control_->Drain(NewContext().get(), exit, &response).ok());
  EXPECT_TRUE(context_->exit_requested.load());
}

TEST_F(ControlTest, HealthFollowsTheStepLoop) {
  server_->SetHealthy(false);
  EXPECT_EQ(Health(""), 2);
  EXPECT_EQ(Health("tessera.v1.Inference"), 2);
  server_->SetHealthy(true);
  EXPECT_EQ(Health("tessera.v1.Inference"), 1);
  EXPECT_EQ(Health("no.such.Service"), -1);
}

TEST_F(ControlTest, PortInUseIsAnError) {
  ServingContext other;
  ServerOptions options;
  options.listen = server_->address();
  const auto second = StartServer(options, &other);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().message(),
            absl::StrCat("--listen ", server_->address(),
                         ": Address already in use; give another address, or port 0 for a free "
                         "one"));
}

TEST_F(ControlTest, AddressesThatCannotBe) {
  for (const char* bad : {"nowhere", "no.such.host.invalid:1", "192.0.2.1:0"}) {
    ServingContext other;
    ServerOptions options;
    options.listen = bad;
    const auto server = StartServer(options, &other);
    ASSERT_FALSE(server.ok()) << bad;
    EXPECT_NE(server.status().message().find("give"), std::string::npos);
  }
}

TEST_F(ControlTest, RepliesThatNoMessageCarriesAreErrors) {
  v1::DetokenizeResponse reply;
  reply.set_text(std::string(static_cast<size_t>(kMaxMessageBytes), 'x'));
  grpc::ByteBuffer buffer;
  const absl::Status status = Serialize(reply, &buffer);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("ask for less"), std::string::npos) << status;
  reply.set_text("x");
  EXPECT_TRUE(Serialize(reply, &buffer).ok());
  EXPECT_EQ(buffer.Length(), reply.ByteSizeLong());
}

TEST_F(ControlTest, LoopbackPeers) {
  for (const char* local : {"ipv4:127.0.0.1:5", "ipv4:127.9.9.9:5", "ipv6:[::1]:5"}) {
    EXPECT_TRUE(IsLoopbackPeer(local)) << local;
  }
  for (const char* remote : {"ipv4:10.0.0.1:5", "ipv4:1.127.0.0:5", "ipv6:[2001:db8::1]:5",
                             "ipv6:[::1:2]:5", "", "127.0.0.1:5", "unix:/tmp/x", "unix:"}) {
    EXPECT_FALSE(IsLoopbackPeer(remote)) << remote;
  }
}

}  // namespace
}  // namespace tessera::testing
