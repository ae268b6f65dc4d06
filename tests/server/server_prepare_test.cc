// What becomes of a request's bytes before the engine sees them, without sockets: counts that are
// bounded in all, texts that are bounded while they grow, errors that name the field.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "scheduler/adapter_registry.h"
#include "server/limits.h"
#include "server/live_calls.h"
#include "server/prepare.h"
#include "server/wire_check.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {
namespace {

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() : registry_(FakeModels()) {}

  PreparedCall Run(Method method, const std::string& bytes) {
    return Prepare(method, bytes, 1, registry_, &adapters_, &live_);
  }
  // INVALID_ARGUMENT that blames `field` in words and in google.rpc.BadRequest.
  static void ExpectBlames(const absl::Status& status, const std::string& field,
                           const std::string& part) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(status.message().rfind(field, 0), 0u) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
    google::rpc::BadRequest bad;
    const auto payload = status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
    ASSERT_TRUE(payload && bad.ParseFromString(std::string(*payload))) << status;
    EXPECT_EQ(bad.field_violations(0).field(), field);
  }
  // A packed chunk of `count` ids.
  static std::string Ids(int64_t count, int32_t id) {
    v1::DetokenizeRequest request;
    request.mutable_token_ids()->Resize(static_cast<int>(count), id);
    return request.SerializeAsString();
  }

  ModelRegistry registry_;
  AdapterRegistry adapters_{{}};
  LiveCalls live_;
};

TEST_F(PrepareTest, PackedChunksAreCountedTogether) {
  // Protobuf joins the chunks of one list.
  const std::string chunk = Ids(1'500'000, 1);
  EXPECT_TRUE(CheckWire(*v1::DetokenizeRequest::descriptor(), chunk + chunk).ok());
  ExpectBlames(CheckWire(*v1::DetokenizeRequest::descriptor(), chunk + chunk + chunk), "token_ids",
               "more than 4259840 values");
  // Another list of the same request counts too.
  v1::GenerateRequest generate;
  generate.mutable_token_ids()->mutable_ids()->Resize(3'000'000, 1);
  generate.mutable_stopping()->mutable_stop_token_ids()->Resize(3'000'000, 1);
  ExpectBlames(CheckWire(*v1::GenerateRequest::descriptor(), generate.SerializeAsString()),
               "stopping.stop_token_ids", "more than");
}

TEST_F(PrepareTest, DetokenizeTakesAsManyIdsAsItSays) {
  v1::DetokenizeRequest request;
  request.set_skip_special_tokens(true);
  const std::string most = Ids(kMaxDetokenizeIds, 'x') + request.SerializeAsString();
  const PreparedCall served = Run(Method::kDetokenize, most);
  ASSERT_TRUE(served.status.ok()) << served.status;
  EXPECT_EQ(static_cast<const v1::DetokenizeResponse&>(*served.reply).text().size(),
            static_cast<size_t>(kMaxDetokenizeIds));
  ExpectBlames(Run(Method::kDetokenize, most + Ids(1, 'x')).status, "token_ids",
               "has 4194305 ids; give at most 4194304");
}

TEST_F(PrepareTest, DetokenizedTextIsBounded) {
  const int64_t fit = kMaxDetokenizedBytes / kFakeLongBytes;
  EXPECT_TRUE(Run(Method::kDetokenize, Ids(fit, kFakeLong)).status.ok());
  ExpectBlames(Run(Method::kDetokenize, Ids(fit + 1, kFakeLong)).status, "token_ids",
               absl::StrCat("send at most the first ", fit, " of them"));
}

}  // namespace
}  // namespace tessera::testing
