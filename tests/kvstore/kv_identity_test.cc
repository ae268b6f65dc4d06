// Roots of names: no two identities have one root, and what does not change KV bytes does not
// change the root.
#include "kvstore/identity.h"

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

std::vector<std::string*> FieldsOf(Identity* identity) {
  return {&identity->deployment_secret,
          &identity->model.weights,
          &identity->model.spec,
          &identity->model.numerics,
          &identity->kv,
          &identity->adapter,
          &identity->kv_policy,
          &identity->tenant,
          &identity->salt};
}

TEST(RootOf, EveryFieldCounts) {
  HashSet seen;
  EXPECT_TRUE(seen.Add(RootOf({})));
  Identity probe;
  for (size_t field = 0; field < FieldsOf(&probe).size(); ++field) {
    Identity identity;
    *FieldsOf(&identity)[field] = "x";  // the same text in another field is another root
    EXPECT_TRUE(seen.Add(RootOf(identity))) << field;
    EXPECT_FALSE(seen.Add(RootOf(identity))) << field;
  }
}

TEST(RootOf, TextCannotMoveFromOneFieldToTheNext) {
  HashSet seen;
  const std::string text = "abcdef";
  Identity probe;
  const size_t num_fields = FieldsOf(&probe).size();
  for (size_t left = 0; left < num_fields; ++left) {
    for (size_t right = left + 1; right < num_fields; ++right) {
      for (size_t cut = 1; cut < text.size(); ++cut) {
        Identity identity;
        *FieldsOf(&identity)[left] = text.substr(0, cut);
        *FieldsOf(&identity)[right] = text.substr(cut);
        EXPECT_TRUE(seen.Add(RootOf(identity))) << left << " " << right << " " << cut;
      }
    }
  }
}

TEST(RootOf, AFieldCannotImitateTheRecord) {
  // The forged tenant ends with the bytes that the digest receives for the field salt = "a": field
  // number 9, length 1, content. The tenant is the field before the salt in the record.
  Identity honest;
  honest.salt = "a";
  Identity forged;
  const uint64_t header[2] = {9, 1};
  forged.tenant.assign(reinterpret_cast<const char*>(header), sizeof(header));
  forged.tenant += "a";
  EXPECT_NE(RootOf(honest), RootOf(forged));
  Identity with_zero;
  with_zero.salt = std::string("a\0", 2);
  Identity without;
  without.salt = "a";
  EXPECT_NE(RootOf(with_zero), RootOf(without));
}

TEST(PrivateRoot, IsSharedWithNobody) {
  HashSet seen;
  const PageHash root = RootOf({});
  Identity other;
  other.kv_policy = "private 1";
  EXPECT_TRUE(seen.Add(root));
  EXPECT_TRUE(seen.Add(RootOf(other)));
  EXPECT_TRUE(seen.Add(PrivateRoot(root, 1)));
  EXPECT_TRUE(seen.Add(PrivateRoot(root, 2)));
  EXPECT_TRUE(seen.Add(PrivateRoot(RootOf(other), 1)));
  EXPECT_TRUE(seen.Add(HashPage(root, Iota(16))));
}

TEST(KvKey, NamesWhatDecidesTheBytesOfARow) {
  std::set<std::string> keys;
  PageLayout layout = MakeLayout(16, {0, 512});
  EXPECT_TRUE(keys.insert(KvKey(layout)).second);
  EXPECT_TRUE(keys.insert(KvKey(MakeLayout(16, {512, 0}))).second);
  EXPECT_TRUE(keys.insert(KvKey(MakeLayout(16, {0}))).second);
  layout.groups[0].dtype = DType::kBF16;
  EXPECT_TRUE(keys.insert(KvKey(layout)).second);
  layout.groups[0].kv_heads = 2;
  EXPECT_TRUE(keys.insert(KvKey(layout)).second);
  layout.groups[0].head_dim = 64;
  EXPECT_TRUE(keys.insert(KvKey(layout)).second);
  layout.groups[0].num_layers = 3;
  EXPECT_TRUE(keys.insert(KvKey(layout)).second);
}

TEST(KvKey, LeavesOutHowPagesAreCut) {
  const std::string key = KvKey(MakeLayout(16, {0, 512}));
  EXPECT_EQ(key, KvKey(MakeLayout(64, {0, 512})));
  EXPECT_EQ(key, KvKey(MakeLayout(16, {0, 512}, /*slabs_per_page=*/4)));
  PageLayout layout = MakeLayout(16, {0, 512});
  layout.slab_bytes *= 2;
  EXPECT_EQ(key, KvKey(layout));
  layout.groups[1].num_layers += 1;
  layout.groups[1].num_padding_layers = 1;
  EXPECT_EQ(key, KvKey(layout));
}

}  // namespace
}  // namespace tessera
