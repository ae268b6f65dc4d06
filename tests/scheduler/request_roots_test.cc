// Roots of requests and probes: who shares pages inside an engine, and which requests have names
// that may leave it.
#include "scheduler/step/request_roots.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/lib/fake_runner.h"

namespace tessera::testing {
namespace {

EngineOptions Options() {
  EngineOptions options;
  options.models = {FakeModel("a", {0}, 4, 64), FakeModel("b", {0}, 4, 64)};
  options.deployment_secret = "secret";
  return options;
}

ProbeQuery QueryOf(const Request& request) {
  ProbeQuery query;
  query.model = request.model;
  query.salt = request.salt;
  query.tenant = request.tenant;
  query.adapter_key = request.adapter.key;
  return query;
}

class RequestRootsTest : public ::testing::Test {
 protected:
  const EngineOptions options_ = Options();
  RequestRoots roots_{&options_};
};

TEST_F(RequestRootsTest, AProbeHasTheRootOfTheRequestThatItDescribes) {
  Request request;
  EXPECT_EQ(roots_.RootOf(request), roots_.RootOf(QueryOf(request)));
  request.model = 1;
  request.salt = "salt";
  request.tenant = "tenant";
  request.adapter.key = "adapter";
  EXPECT_EQ(roots_.RootOf(request), roots_.RootOf(QueryOf(request)));
}

TEST_F(RequestRootsTest, ModelTenantSaltAndAdapterTellRequestsApart) {
  const Request plain;
  Request model = plain;
  model.model = 1;
  Request tenant = plain;
  tenant.tenant = "x";
  Request salt = plain;
  salt.salt = "x";
  Request adapter = plain;
  adapter.adapter.key = "x";
  const Request* const requests[] = {&plain, &model, &tenant, &salt, &adapter};
  for (const Request* a : requests) {
    for (const Request* b : requests) {
      EXPECT_EQ(roots_.RootOf(*a) == roots_.RootOf(*b), a == b);
      if (a == &adapter || b == &adapter) continue;
      EXPECT_EQ(roots_.ExportRootOf(*a) == roots_.ExportRootOf(*b), a == b);
    }
  }
}

TEST_F(RequestRootsTest, ARequestThatBypassesPrefixesHasItsOwnRootAndNoNamesOutside) {
  Request request;
  request.bypass_prefix = true;
  const PageHash first = roots_.RootOf(request);
  EXPECT_NE(roots_.RootOf(request), first);
  EXPECT_EQ(roots_.ExportRootOf(request), std::nullopt);
  request.bypass_prefix = false;
  EXPECT_NE(roots_.RootOf(request), first);
  EXPECT_TRUE(roots_.ExportRootOf(request).has_value());
}

TEST_F(RequestRootsTest, PrivateAndScoredRequestsHaveNoNamesOutside) {
  Request request;
  EXPECT_TRUE(roots_.ExportRootOf(request).has_value());
  request.prompt_logprobs = 0;
  EXPECT_FALSE(roots_.ExportRootOf(request).has_value());
  request.prompt_logprobs = -1;
  request.kind = RequestKind::kEmbed;
  EXPECT_FALSE(roots_.ExportRootOf(request).has_value());
  request.kind = RequestKind::kGenerate;
  request.bypass_prefix = true;
  EXPECT_FALSE(roots_.ExportRootOf(request).has_value());
}

}  // namespace
}  // namespace tessera::testing
