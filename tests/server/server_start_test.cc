// Tests of a node's start with the shipped model: probes while models load, and the check that
// finds what a start would find.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/config/listener.h"
#include "server/config/net.h"
#include "server/end_by_exception.h"
#include "server/end_watch.h"
#include "server/node.h"
#include "tessera/v1/config.pb.h"
#include "tests/lib/http_client.h"
#include "tests/lib/log_capture.h"

namespace tessera {
namespace {

using testing::HttpGet;

constexpr char kModel[] = "deploy/models/tessera-nano";

v1::Config ConfigWith(const std::function<void(v1::Config*)>& change) {
  v1::Config config;
  config.add_models()->set_name("first");
  config.mutable_models(0)->set_path(kModel);
  config.mutable_server()->set_listen("127.0.0.1:0");
  config.mutable_server()->set_metrics_listen("127.0.0.1:0");
  config.mutable_engine()->set_threads(1);
  config.mutable_engine()->set_kv_cache_bytes(32 << 20);
  change(&config);
  return config;
}

TEST(ServerStartTest, ProbesAnswerFromTheStartOfLoadingOn) {
  auto free = Listener::Open("--metrics-listen", {"127.0.0.1", 0});
  ASSERT_TRUE(free.ok()) << free.status();
  const std::string address = FormatHostPort(free->local_address());
  free->Close();
  std::string progress;
  const auto probe = [&] {
    EXPECT_EQ(HttpGet(address, "/healthz").rfind("HTTP/1.1 200", 0), 0u);
    EXPECT_NE(HttpGet(address, "/metrics").find("\ntessera_ready 0\n"), std::string::npos);
    const std::string readyz = HttpGet(address, "/readyz");
    EXPECT_EQ(readyz.rfind("HTTP/1.1 503", 0), 0u) << readyz;
    progress += readyz.substr(readyz.find("\r\n\r\n") + 4);
  };
  const auto node = StartNode(
      ConfigWith([&](v1::Config* c) { c->mutable_server()->set_metrics_listen(address); }), probe);
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_NE(progress.find("loading first: tokenizer\n"), std::string::npos) << progress;
  EXPECT_NE(progress.find(" MiB\n"), std::string::npos) << progress;
  EXPECT_EQ((*node)->metrics_address(), address);
  EXPECT_EQ(HttpGet(address, "/readyz").rfind("HTTP/1.1 200", 0), 0u);
  EXPECT_NE(HttpGet(address, "/metrics").find("\ntessera_ready 1\n"), std::string::npos);
}

TEST(ServerStartTest, ACheckFindsWhatAStartFinds) {
  const std::string file = ::testing::TempDir() + absl::StrCat("/node_check_", getpid());
  std::ofstream(file) << "no folder";
  const std::function<void(v1::Config*)> faults[] = {
      [](v1::Config* c) { c->mutable_adapters()->add_paths("/nope"); },
      [](v1::Config* c) { c->mutable_adapters()->add_paths("nobody=deploy/models"); },
      [&](v1::Config* c) { c->mutable_engine()->set_pack_cache(file); },
      [](v1::Config* c) { c->mutable_engine()->set_max_model_len(1'000'000); },
      [](v1::Config* c) { c->mutable_server()->set_listen("no.such.host.invalid:0"); },
      [](v1::Config* c) { c->mutable_models(0)->set_path("/nope"); }};
  for (const auto& fault : faults) {
    const v1::Config config = ConfigWith(fault);
    const absl::Status check = CheckNode(config).status();
    EXPECT_FALSE(check.ok()) << config.ShortDebugString();
    EXPECT_EQ(check, StartNode(config).status());
  }
  std::filesystem::remove(file);
  EXPECT_TRUE(CheckNode(ConfigWith([](v1::Config* c) {
                c->mutable_adapters()->add_paths(absl::StrCat(kModel, "/adapters"));
              })).ok());
}

// Copies a folder and puts a NaN at the end of its file `name`.
std::string CopyWithNan(const std::string& from, const std::string& name) {
  const std::string dir = ::testing::TempDir() + absl::StrCat("/node_nan_", getpid(), "/", name);
  std::filesystem::create_directories(dir);
  std::filesystem::copy(from, dir, std::filesystem::copy_options::recursive);
  std::fstream file(dir + "/" + name, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end);
  file.write("\xff\xff\xff\xff", 4);
  EXPECT_TRUE(file.good());
  return dir;
}

TEST(ServerStartTest, ACheckReadsTheValuesInTheFiles) {
  const std::string model = CopyWithNan(kModel, "model.safetensors");
  const v1::Config of_model =
      ConfigWith([&](v1::Config* c) { c->mutable_models(0)->set_path(model); });
  const absl::Status check = CheckNode(of_model).status();
  EXPECT_NE(check.message().find("NaN"), std::string::npos) << check;
  EXPECT_EQ(check, StartNode(of_model).status());

  const std::string adapter =
      CopyWithNan(absl::StrCat(kModel, "/adapters/zorvan-1"), "adapter_model.safetensors");
  const absl::Status of_adapter = CheckNode(ConfigWith([&](v1::Config* c) {
                                    c->mutable_adapters()->add_paths(adapter);
                                  })).status();
  EXPECT_EQ(of_adapter.message().find("adapter "), 0u) << of_adapter;
  EXPECT_EQ(of_adapter.code(), absl::StatusCode::kInvalidArgument) << of_adapter;
  std::filesystem::remove_all(std::filesystem::path(model).parent_path());
}

// A folder of adapters may have one that is still being copied.
TEST(ServerStartTest, AnAdapterThatCannotBeLoadedDoesNotKeepTheOthersFromServing) {
  const std::string dir = ::testing::TempDir() + absl::StrCat("/node_adapters_", getpid());
  const std::string from = absl::StrCat(kModel, "/adapters/zorvan-1");
  std::filesystem::create_directories(dir);
  for (const char* name : {"/whole", "/half"}) std::filesystem::copy(from, dir + name);
  std::filesystem::resize_file(dir + "/half/adapter_model.safetensors", 1000);
  const auto config_of = [](const std::string& path) {
    return ConfigWith([&](v1::Config* c) { c->mutable_adapters()->add_paths(path); });
  };
  {
    testing::LogCapture log;
    const auto node = StartNode(config_of(dir));
    EXPECT_TRUE(node.ok()) << node.status();
    EXPECT_NE(log.text().find("[info] 1 adapters registered"), std::string::npos) << log.text();
    EXPECT_NE(log.text().find("[warning] skipped at the start: adapter half: "), std::string::npos)
        << log.text();
  }
  const absl::Status check = CheckNode(config_of(dir)).status();
  EXPECT_NE(check.message().find("adapter half: "), std::string::npos) << check;
  EXPECT_FALSE(StartNode(config_of(dir + "/half")).ok()) << "it is named by itself";
  std::filesystem::remove_all(dir);
}

TEST(ServerStartTest, AnAddressThatOtherMachinesReachNeedsTlsOrConsent) {
  const auto config_of = [](const std::string& listen, bool insecure) {
    return ConfigWith([&](v1::Config* c) {
      c->mutable_server()->set_listen(listen);
      c->mutable_security()->set_insecure(insecure);
    });
  };
  const absl::Status refused = CheckNode(config_of("0.0.0.0:0", false)).status();
  EXPECT_NE(refused.message().find("--listen 0.0.0.0:0: other machines can reach"),
            std::string::npos)
      << refused;
  EXPECT_NE(refused.message().find("--insecure"), std::string::npos) << refused;
  const auto lines = [&](const std::string& listen, bool insecure) {
    testing::LogCapture log;
    EXPECT_TRUE(CheckNode(config_of(listen, insecure)).ok());
    return log.text();
  };
  const std::string warned = lines("0.0.0.0:0", true);
  EXPECT_NE(warned.find("[warning] --listen 0.0.0.0:0: other machines can reach"),
            std::string::npos);
  EXPECT_NE(warned.find("anyone who reaches this address can use the models"), std::string::npos);
  EXPECT_EQ(lines("127.0.0.1:0", false).find("[warning] --listen"), std::string::npos);
}

// Calls a function whose exception has no handler. A compiler that put the body of the function
// here would call std::terminate without the exception.
__attribute__((noinline)) void RunWithoutHandler(void (*body)()) noexcept {
  std::set_terminate(&EndByException);
  body();
}

// Starts a thread where the system refuses threads. A limit of threads does not bind root, so root
// becomes another user first.
void StartRefusedThread() {
  constexpr uid_t kNobody = 65534;
  const rlimit none = {1, 1};
  if ((getuid() == 0 && setuid(kNobody) != 0) || setrlimit(RLIMIT_NPROC, &none) != 0) _exit(3);
  for (int i = 0; i < 2; ++i) std::thread([] { pause(); }).detach();
}

void AllocateTooMuch() { throw std::bad_alloc(); }

TEST(ServerStartTest, WhatTheSystemRefusesEndsTheProcessWithALine) {
  EXPECT_EXIT(RunWithoutHandler(&StartRefusedThread), ::testing::ExitedWithCode(1),
              "tesserad: .*ulimit -u");
  EXPECT_EXIT(RunWithoutHandler(&AllocateTooMuch), ::testing::ExitedWithCode(1),
              "tesserad: out of memory: .*ulimit -v");
}

// Runs a watch with a limit of 0.2 s in a process that never ends by itself.
void Hang(bool is_armed) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  EndWatch watch(signals, 200'000);
  if (is_armed) {
    watch.Arm();
  } else {
    kill(getpid(), SIGTERM);
  }
  for (;;) pause();
}

TEST(ServerStartTest, AProcessThatHangsWhenItMustEndIsEnded) {
  EXPECT_EXIT(Hang(true), ::testing::ExitedWithCode(1), "ended by force: .*a thread hangs");
  EXPECT_EXIT(Hang(false), ::testing::ExitedWithCode(1), "ended by force: .*a thread hangs");
}

TEST(ServerStartTest, AWatchThatNobodyNeedsEndsNothing) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  EndWatch watch(signals, 1);
  while (watch.num_looks() < 3) std::this_thread::yield();
}

}  // namespace
}  // namespace tessera
