// Tests of the log over real sockets: one line for each call, for each Control call that changes
// the server, and for gRPC's own errors.
#include <grpc/support/log.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/lib/log_capture.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class LogTest : public ServerTest {
 protected:
  void SetUp() override { Restart({}); }
  void TearDown() override {
    Stop();
    log_.reset();
  }
  // Starts the server with an empty log.
  void Restart(FakeGeneratorOptions fake) {
    Stop();
    log_.emplace();
    Start(fake, {});
  }

  // The lines with this part.
  std::vector<std::string> Lines(const std::string& part) const {
    std::vector<std::string> lines;
    for (const absl::string_view line : absl::StrSplit(log_->text(), '\n')) {
      if (absl::StrContains(line, part)) lines.emplace_back(line);
    }
    return lines;
  }
  // Waits for the one line with this part and returns it.
  std::string Line(const std::string& part) {
    WaitFor(part.c_str(), [&] { return !Lines(part).empty(); });
    EXPECT_EQ(Lines(part).size(), 1u) << log_->text();
    return Lines(part).empty() ? "" : Lines(part).front();
  }
  static void ExpectMatch(const std::string& line, const std::string& pattern) {
    EXPECT_TRUE(std::regex_match(line, std::regex(pattern))) << line << "\nis not\n" << pattern;
  }

  std::optional<LogCapture> log_;
};

TEST_F(LogTest, AStreamIsOneLine) {
  v1::GenerateRequest request = TextRequest("abc", 9);
  request.set_request_id("mine");
  request.mutable_sampling()->set_n(2);
  Generate(request).ExpectWellFormed(2);
  ExpectMatch(Line("mine"),
              "\\[info\\] call Generate request_id=\"mine\" model=\"bytes\" n=2 prompt_tokens=4 "
              "cached_tokens=0 completion_tokens=18 queue_ms=0.0 prefill_ms=0.0 decode_ms=0.0 "
              "ttft_ms=0.0 total_ms=[0-9.]+ code=OK finish=length");
}

TEST_F(LogTest, UnaryCallsAreOneLineEach) {
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("abc");
  embed.add_inputs()->set_text("abcd");
  v1::EmbedResponse embedded;
  ASSERT_TRUE(stub_->Embed(NewContext().get(), embed, &embedded).ok());
  ExpectMatch(Line("call Embed"),
              "\\[info\\] call Embed request_id=\"req-[0-9a-f]+\" model=\"bytes\" n=2 "
              "prompt_tokens=9 cached_tokens=0 completion_tokens=0 .* code=OK finish=length");
  v1::TokenizeRequest tokenize;
  tokenize.set_text("abc");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(NewContext().get(), tokenize, &tokens).ok());
  ExpectMatch(Line("call Tokenize"),
              "\\[info\\] call Tokenize model=\"bytes\" total_ms=[0-9.]+ code=OK");
}

TEST_F(LogTest, ARefusedCallSaysWhy) {
  v1::GenerateRequest request = TextRequest("abc");
  request.set_request_id("bad");
  request.mutable_sampling()->set_top_p(2);
  EXPECT_FALSE(Generate(request).status.ok());
  ExpectMatch(Line("bad"),
              "\\[info\\] call Generate request_id=\"bad\" total_ms=[0-9.]+ "
              "code=INVALID_ARGUMENT reason=INVALID_FIELD message=\"sampling.top_p is 2.*\"");
}

TEST_F(LogTest, TextOfClientsCannotMakeLinesOrFields) {
  v1::GenerateRequest request = TextRequest("abc");
  request.set_request_id("a\n[info] call\x1b[2J\" code=FORGED");
  EXPECT_TRUE(Generate(request).status.ok());
  const std::string line = Line("FORGED");
  EXPECT_NE(line.find("request_id=\"a\\n[info] call\\x1b[2J\\\" code=FORGED\" model="),
            std::string::npos)
      << line;
  request.set_request_id("");
  request.set_model(std::string(500'000, 'x'));
  EXPECT_FALSE(Generate(request).status.ok());
  EXPECT_LT(Line("MODEL_NOT_FOUND").size(), 1200u);
}

TEST_F(LogTest, AStreamWhoseClientLeavesIsOneLine) {
  Restart({.token_us = 1000});
  v1::GenerateRequest request = TextRequest("abc", 4000);
  request.set_request_id("gone");
  const auto context = NewContext();
  const auto reader = stub_->Generate(context.get(), request);
  v1::GenerateResponse message;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&message));
  context->TryCancel();
  while (reader->Read(&message)) {
  }
  ExpectMatch(Line("gone\""),
              "\\[info\\] call Generate request_id=\"gone\" model=\"bytes\" n=1 prompt_tokens=4 "
              "cached_tokens=0 completion_tokens=[1-9][0-9]* total_ms=[0-9.]+ code=CANCELLED "
              "reason=CLIENT_GONE message=.*");
}

TEST_F(LogTest, ErrorsOfTheEngineAreWarnings) {
  Restart({.fail = true});
  EXPECT_TRUE(Generate(TextRequest("abc")).status.ok());
  ExpectMatch(Line("call Generate"),
              "\\[warning\\] call Generate .* code=OK finish=error reason=INTERNAL "
              "message=\"/srv/models/a.json: the step failed\"");
}

TEST_F(LogTest, AFloodOfRefusalsIsAFewLinesAndASummary) {
  Restart({.max_requests = 0});
  constexpr int kCalls = 40;
  for (int i = 0; i < kCalls; ++i) EXPECT_FALSE(Generate(TextRequest("abc")).status.ok());
  const size_t num_lines = Lines("reason=QUEUE_FULL").size();
  EXPECT_GE(num_lines, 10u);
  EXPECT_LT(num_lines, 30u);
  // The end of the server tells the rest at once.
  Stop();
  EXPECT_NE(log_->text().find(
                absl::StrCat(kCalls - num_lines, " more calls ended with QUEUE_FULL in the last ")),
            std::string::npos)
      << log_->text();
}

TEST_F(LogTest, ControlCallsThatChangeTheServerAreAudited) {
  v1::CancelRequest cancel;
  v1::CancelResponse cancelled;
  cancel.set_request_id("nobody");
  ASSERT_TRUE(control_->Cancel(NewContext().get(), cancel, &cancelled).ok());
  v1::ListAdaptersResponse list;
  ASSERT_TRUE(control_->ListAdapters(NewContext().get(), {}, &list).ok());
  EXPECT_TRUE(Lines("control ").empty()) << log_->text();  // these two changed nothing

  Restart({.token_us = 1000});
  StreamResult result;
  v1::GenerateRequest request = TextRequest("abc", 4000);
  request.set_request_id("victim");
  std::thread reader([&] { result = Generate(request); });
  WaitFor("a token", [&] { return generator_->num_tokens() > 0; });
  cancel.set_request_id("victim");
  ASSERT_TRUE(control_->Cancel(NewContext().get(), cancel, &cancelled).ok());
  reader.join();
  ExpectMatch(Line("control Cancel"),
              "\\[info\\] control Cancel peer=ipv4:127.0.0.1:[0-9]+ object=\"victim\" code=OK");

  v1::LoadAdapterRequest load;
  v1::LoadAdapterResponse loaded;
  load.set_name("none\nsuch");
  EXPECT_FALSE(control_->LoadAdapter(NewContext().get(), load, &loaded).ok());
  ExpectMatch(Line("control LoadAdapter"),
              "\\[info\\] control LoadAdapter peer=\\S+ object=\"none\\\\nsuch\" code=NOT_FOUND "
              "reason=ADAPTER_NOT_FOUND message=.*");
  v1::RegisterAdaptersRequest registration;
  v1::RegisterAdaptersResponse registered;
  registration.add_adapters()->set_path("/no/such/folder");
  registration.mutable_adapters(0)->set_name("red");
  EXPECT_FALSE(control_->RegisterAdapters(NewContext().get(), registration, &registered).ok());
  ExpectMatch(Line("control RegisterAdapters"),
              "\\[info\\] control RegisterAdapters peer=\\S+ object=\"/no/such/folder as red\" "
              "code=NOT_FOUND .*");
  v1::DrainResponse drained;
  v1::DrainRequest drain;
  drain.set_exit(true);
  ASSERT_TRUE(control_->Drain(NewContext().get(), drain, &drained).ok());
  ExpectMatch(Line("control Drain"), "\\[info\\] control Drain peer=\\S+ object=\"exit\" code=OK");
}

TEST_F(LogTest, LoadsAndPinsAreAudited) {
  const std::string dir = ::testing::TempDir() + "/log_" + std::to_string(getpid()) + "/red";
  std::filesystem::create_directories(dir);
  std::ofstream(dir + "/adapter_config.json") << "{}";
  std::ofstream(dir + "/adapter_model.safetensors") << "red";
  ASSERT_TRUE(adapters_->Register({{.name = "red", .model = 0, .path = dir}}).ok());
  v1::LoadAdapterRequest load;
  v1::LoadAdapterResponse loaded;
  load.set_name("red");
  ASSERT_TRUE(control_->LoadAdapter(NewContext().get(), load, &loaded).ok());
  v1::PinAdapterRequest pin;
  v1::PinAdapterResponse pinned;
  pin.set_name("red");
  ASSERT_TRUE(control_->PinAdapter(NewContext().get(), pin, &pinned).ok());
  pin.set_pinned(false);
  ASSERT_TRUE(control_->PinAdapter(NewContext().get(), pin, &pinned).ok());
  v1::UnloadAdapterRequest unload;
  v1::UnloadAdapterResponse unloaded;
  unload.set_name("red");
  ASSERT_TRUE(control_->UnloadAdapter(NewContext().get(), unload, &unloaded).ok());
  // A call with an adapter names it.
  v1::GenerateRequest request = TextRequest("abc");
  request.add_adapters()->set_name("red");
  Generate(request).ExpectWellFormed();
  EXPECT_NE(Line("call Generate").find(" model=\"bytes\" adapter=\"red\" n=1 "), std::string::npos);
  v1::UnregisterAdapterRequest unregister;
  v1::UnregisterAdapterResponse unregistered;
  unregister.set_name("red");
  ASSERT_TRUE(control_->UnregisterAdapter(NewContext().get(), unregister, &unregistered).ok());
  for (const char* method :
       {"LoadAdapter", "PinAdapter", "UnpinAdapter", "UnloadAdapter", "UnregisterAdapter"}) {
    ExpectMatch(Line(absl::StrCat("control ", method)),
                absl::StrCat("\\[info\\] control ", method, " peer=\\S+ object=\"red\" code=OK"));
  }
  v1::RegisterAdaptersRequest again;
  v1::RegisterAdaptersResponse registered;
  again.add_adapters()->set_path(dir);
  ASSERT_TRUE(control_->RegisterAdapters(NewContext().get(), again, &registered).ok());
  ExpectMatch(Line("control RegisterAdapters"),
              "\\[info\\] control RegisterAdapters peer=\\S+ object=\".*/red\" code=OK");
  std::filesystem::remove_all(dir);
}

TEST_F(LogTest, ErrorsOfGrpcAreErrorsAndLimited) {
  for (int i = 0; i < 1000; ++i) gpr_log(GPR_ERROR, "broken pipe %d", i);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_INFO);
  gpr_log(GPR_INFO, "a detail");
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  const size_t num_lines = Lines("[error] grpc ").size();
  EXPECT_GE(num_lines, 10u);
  EXPECT_LT(num_lines, 50u);
  EXPECT_EQ(Lines("broken pipe 0").size(), 1u);
  EXPECT_EQ(Lines("a detail").front().rfind("[debug] grpc ", 0), 0u);
}

}  // namespace
}  // namespace tessera::testing
