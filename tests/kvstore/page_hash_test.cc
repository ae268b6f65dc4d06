#include "kvstore/page_hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/identity.h"
#include "tests/kvstore/kv_test_util.h"

namespace tessera {
namespace {

using testing::Iota;

class HashSet {
 public:
  bool Add(const PageHash& hash) { return seen_.insert({hash.hi, hash.lo}).second; }

 private:
  std::set<std::pair<uint64_t, uint64_t>> seen_;
};

TEST(HashPage, DependsOnParentTokensAndTheirNumber) {
  const PageHash root = RootOf({});
  const std::vector<TokenId> tokens = Iota(16);
  HashSet seen;
  EXPECT_TRUE(seen.Add(root));
  EXPECT_TRUE(seen.Add(HashPage(root, tokens)));
  EXPECT_TRUE(seen.Add(HashPage(HashPage(root, tokens), tokens)));
  EXPECT_TRUE(seen.Add(HashPage(root, absl::MakeSpan(tokens).subspan(0, 15))));
  EXPECT_TRUE(seen.Add(HashPage(root, {})));
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::vector<TokenId> changed = tokens;
    changed[i] += 1;
    EXPECT_TRUE(seen.Add(HashPage(root, changed)));
  }
  std::vector<TokenId> swapped = tokens;
  std::swap(swapped[3], swapped[4]);
  EXPECT_TRUE(seen.Add(HashPage(root, swapped)));
}

TEST(HashPage, AReusedHasherForgetsWhatItHashed) {
  PageHasher hasher;
  const PageHash root = RootOf({});
  const PageHash first = hasher.Page(root, Iota(16));
  hasher.Page(first, Iota(16, 100));
  EXPECT_EQ(hasher.Page(root, Iota(16)), first);
  EXPECT_EQ(HashPage(root, Iota(16)), first);
}

TEST(RunNames, ChainOverWholeRunsAndTheEnd) {
  const PageHash root = RootOf({});
  const std::vector<TokenId> tokens = Iota(2 * kRunTokens + 10);
  const auto span = absl::MakeConstSpan(tokens);
  const std::vector<PageHash> names = RunNames(root, tokens);
  ASSERT_EQ(names.size(), 3u);
  PageHasher hasher;
  EXPECT_EQ(names[0], hasher.Run(root, span.subspan(0, kRunTokens)));
  EXPECT_EQ(names[1], hasher.Run(names[0], span.subspan(kRunTokens, kRunTokens)));
  EXPECT_EQ(names[2], hasher.Run(names[1], span.subspan(2 * kRunTokens)));
  EXPECT_TRUE(RunNames(root, {}).empty());
  EXPECT_EQ(RunNames(root, span.subspan(0, kRunTokens)).size(), 1u);
  // A longer prompt has the same whole runs and another end.
  const std::vector<PageHash> longer = RunNames(root, Iota(2 * kRunTokens + 11));
  EXPECT_EQ(longer[1], names[1]);
  EXPECT_NE(longer[2], names[2]);
}

TEST(RunNames, AreNoPageNames) {
  const PageHash root = RootOf({});
  EXPECT_NE(RunNames(root, Iota(kRunTokens))[0], HashPage(root, Iota(kRunTokens)));
  EXPECT_NE(RunNames(root, Iota(16))[0], HashPage(root, Iota(16)));
}

// Names leave the process, so they must never change by accident: recompute by
//   python3 -c 'import hashlib, struct
//   root = b"TSRroot2" + b"".join(struct.pack("<QQ", i, len(s)) + s for i, s in enumerate(
//       [b"secret", b"weights", b"spec", b"numerics", b"kv", b"adapter", b"", b"tenant", b"salt"],
//       1))
//   h = hashlib.sha256(root).digest()[:16]; print(h.hex())
//   for tag in (b"TSRpage1", b"TSRruns1"):
//     record = tag + struct.pack("<Q", 4) + h + struct.pack("<4i", 5, 6, 7, 8)
//     print(hashlib.sha256(record).digest()[:16].hex())
//   lossy = b"TSRappr1" + struct.pack("<QQ", 1, 16) + h + struct.pack("<QQ", 2, 5) + b"lossy"
//   print(hashlib.sha256(lossy).digest()[:16].hex())'
TEST(HashPage, IsTheSha256OfTheStatedRecord) {
  const PageHash root =
      RootOf({"secret", {"weights", "spec", "numerics"}, "kv", "adapter", "", "tenant", "salt"});
  const auto hex = [](const PageHash& hash) {
    std::string text;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&hash);
    for (size_t i = 0; i < sizeof(hash); ++i) {
      text += "0123456789abcdef"[bytes[i] >> 4];
      text += "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
  };
  EXPECT_EQ(hex(root), "5e3c8d18d9a6a81dd643719259c2c6e0");
  EXPECT_EQ(hex(HashPage(root, Iota(4, 5))), "25d860137553d96e3d3eabe4a75e65e4");
  EXPECT_EQ(hex(RunNames(root, Iota(4, 5))[0]), "4e54566f9d3489670c598a59bb7e0fb7");
  EXPECT_EQ(hex(ApproximateRoot(root, "lossy")), "57d28e92c911b0220a9dc7f882839658");
}

TEST(ApproximateRoot, DependsOnTheExactRootAndTheClass) {
  const PageHash root = testing::RootOfSalt("a");
  const PageHash other = testing::RootOfSalt("b");
  const PageHash lossy = ApproximateRoot(root, "lossy");
  EXPECT_EQ(lossy, ApproximateRoot(root, "lossy"));
  EXPECT_NE(lossy, root);
  EXPECT_NE(lossy, ApproximateRoot(other, "lossy"));
  EXPECT_NE(lossy, ApproximateRoot(root, "loss"));
  EXPECT_NE(lossy, ApproximateRoot(root, std::string("lossy\0", 6)));
  EXPECT_NE(lossy, ApproximateRoot(root, ""));
  EXPECT_NE(ApproximateRoot(root, ""), HashPage(root, {}));
}

}  // namespace
}  // namespace tessera
