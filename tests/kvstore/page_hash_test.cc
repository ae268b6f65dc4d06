#include "kvstore/page_hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/kvstore/kv_test_util.h"

namespace tessera {
namespace {

using testing::Iota;
using testing::MakeLayout;

class HashSet {
 public:
  bool Add(const PageHash& hash) { return seen_.insert({hash.hi, hash.lo}).second; }

 private:
  std::set<std::pair<uint64_t, uint64_t>> seen_;
};

TEST(HashRoot, EveryFieldCounts) {
  HashSet seen;
  EXPECT_TRUE(seen.Add(HashRoot({})));
  std::string PrefixRoot::*const fields[] = {
      &PrefixRoot::deployment_secret, &PrefixRoot::model_revision, &PrefixRoot::page_layout,
      &PrefixRoot::adapter,           &PrefixRoot::kv_policy,      &PrefixRoot::salt};
  for (auto field : fields) {
    PrefixRoot root;
    root.*field = std::string(1, 'x');  // the same text in another field is another root
    EXPECT_TRUE(seen.Add(HashRoot(root)));
    EXPECT_FALSE(seen.Add(HashRoot(root)));
  }
}

TEST(HashRoot, TextCannotMoveFromOneFieldToTheNext) {
  HashSet seen;
  const std::string text = "abcdef";
  std::string PrefixRoot::*const fields[] = {
      &PrefixRoot::deployment_secret, &PrefixRoot::model_revision, &PrefixRoot::page_layout,
      &PrefixRoot::adapter,           &PrefixRoot::kv_policy,      &PrefixRoot::salt};
  for (size_t left = 0; left < 6; ++left) {
    for (size_t right = left + 1; right < 6; ++right) {
      for (size_t cut = 1; cut < text.size(); ++cut) {
        PrefixRoot root;
        root.*fields[left] = text.substr(0, cut);
        root.*fields[right] = text.substr(cut);
        EXPECT_TRUE(seen.Add(HashRoot(root))) << left << " " << right << " " << cut;
      }
    }
  }
}

TEST(HashRoot, AFieldCannotImitateTheRecord) {
  // What the digest sees for adapter = "a", written into the field before it.
  PrefixRoot honest;
  honest.adapter = "a";
  PrefixRoot forged;
  const uint64_t header[2] = {4, 1};
  forged.page_layout.assign(reinterpret_cast<const char*>(header), sizeof(header));
  forged.page_layout += "a";
  EXPECT_NE(HashRoot(honest), HashRoot(forged));
  PrefixRoot with_zero;
  with_zero.salt = std::string("a\0", 2);
  PrefixRoot without;
  without.salt = "a";
  EXPECT_NE(HashRoot(with_zero), HashRoot(without));
}

TEST(HashPage, DependsOnParentTokensAndTheirNumber) {
  const PageHash root = HashRoot({});
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
  const PageHash root = hasher.Root({});
  const PageHash first = hasher.Page(root, Iota(16));
  hasher.Page(first, Iota(16, 100));
  EXPECT_EQ(hasher.Root({}), root);
  EXPECT_EQ(hasher.Page(root, Iota(16)), first);
  EXPECT_EQ(HashPage(root, Iota(16)), first);
}

// Names leave the process, so they must never change by accident: recompute by
//   python3 -c 'import hashlib, struct
//   root = b"TSRroot1" + b"".join(struct.pack("<QQ", i, len(s)) + s for i, s in enumerate(
//       [b"secret", b"rev", b"layout", b"adapter", b"", b"salt"], 1))
//   h = hashlib.sha256(root).digest()[:16]; print(h.hex())
//   page = b"TSRpage1" + struct.pack("<Q", 4) + h + struct.pack("<4i", 5, 6, 7, 8)
//   print(hashlib.sha256(page).digest()[:16].hex())
//   lossy = b"TSRappr1" + h + struct.pack("<Q", 5) + b"lossy"
//   print(hashlib.sha256(lossy).digest()[:16].hex())'
TEST(HashPage, IsTheSha256OfTheStatedRecord) {
  const PageHash root = HashRoot({"secret", "rev", "layout", "adapter", "", "salt"});
  const PageHash page = HashPage(root, Iota(4, 5));
  const auto hex = [](const PageHash& hash) {
    std::string text;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&hash);
    for (size_t i = 0; i < sizeof(hash); ++i) {
      text += "0123456789abcdef"[bytes[i] >> 4];
      text += "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
  };
  EXPECT_EQ(hex(root), "b7499ad9c5788a12474c522634ea8e40");
  EXPECT_EQ(hex(page), "849d462740b65458d02c126b268d54f5");
  EXPECT_EQ(hex(ApproximateRoot(root, "lossy")), "894b428d706c013961b63e5c31b6ba59");
}

TEST(ApproximateRoot, DependsOnTheExactRootAndTheClass) {
  const PageHash root = HashRoot({"", "", "", "", "", "a"});
  const PageHash other = HashRoot({"", "", "", "", "", "b"});
  const PageHash lossy = ApproximateRoot(root, "lossy");
  EXPECT_EQ(lossy, ApproximateRoot(root, "lossy"));
  EXPECT_NE(lossy, root);
  EXPECT_NE(lossy, ApproximateRoot(other, "lossy"));
  EXPECT_NE(lossy, ApproximateRoot(root, "loss"));
  EXPECT_NE(lossy, ApproximateRoot(root, std::string("lossy\0", 6)));
  EXPECT_NE(lossy, ApproximateRoot(root, ""));
  EXPECT_NE(ApproximateRoot(root, ""), HashPage(root, {}));
}

TEST(PageLayoutKey, NamesWhatDecidesWhereBytesLie) {
  std::set<std::string> keys;
  PageLayout layout = MakeLayout(16, {0, 512});
  EXPECT_TRUE(keys.insert(PageLayoutKey(layout)).second);
  EXPECT_FALSE(keys.insert(PageLayoutKey(MakeLayout(16, {0, 512}))).second);
  EXPECT_TRUE(keys.insert(PageLayoutKey(MakeLayout(32, {0, 512}))).second);
  EXPECT_TRUE(keys.insert(PageLayoutKey(MakeLayout(16, {512, 0}))).second);
  EXPECT_TRUE(keys.insert(PageLayoutKey(MakeLayout(16, {0}))).second);
  layout.groups[0].dtype = DType::kBF16;
  EXPECT_TRUE(keys.insert(PageLayoutKey(layout)).second);
  layout.groups[0].kv_heads = 2;
  EXPECT_TRUE(keys.insert(PageLayoutKey(layout)).second);
  layout.groups[0].head_dim = 64;
  EXPECT_TRUE(keys.insert(PageLayoutKey(layout)).second);
  layout.groups[0].num_layers = 3;
  EXPECT_TRUE(keys.insert(PageLayoutKey(layout)).second);
}

}  // namespace
}  // namespace tessera
