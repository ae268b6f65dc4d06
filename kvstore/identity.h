// The identity of KV is everything besides tokens that the K and V of a token depend on, and
// everything that limits who may share them. Equal identities and equal tokens mean equal bytes of
// KV. The hash of an identity is the root of the names in page_hash.h. Only the functions of this
// file turn an identity into a root.
//
// An identity has two levels, which differ in the adapter only:
//   inside the process  a request is admitted before its adapter's files are read, so `adapter` is
//                       the key of the adapter's version: name, folder, and the inode, time and
//                       size of its files (ResolvedAdapter::key). Page names use this level.
//   outside             `adapter` is the hash of the adapter's content: tensors, ranks, scales, and
//                       the recipe of a blend (AdapterRegistry::ContentName). A file that was
//                       touched, copied or registered under another name has the same hash. Run
//                       names use this level; the hash is known once the adapter has been read.
// An identity leaves out what may differ between two engines without changing bytes of KV: names
// and folders of models, page_tokens, slabs, other models in the pool, the number of threads.
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/step/page_layout.h"
#include "kvstore/page_hash.h"

namespace tessera {

// The properties of a loaded model that its KV bytes depend on.
struct ModelIdentity {
  std::string weights;   // hash of the content of all weights
  std::string spec;      // hash of the resulting ModelSpec: rope, eps, windows, ...
  std::string numerics;  // formats, and a tag of the bits that this build computes on this machine
};

struct Identity {
  std::string deployment_secret;
  ModelIdentity model;
  std::string kv;         // the text of KvKey()
  std::string adapter;    // empty: the base model; otherwise a key or a hash, by level
  std::string kv_policy;  // empty: the KV is exact
  std::string tenant;
  std::string salt;  // salt that the request gives
};

// Returns a text with dtype, number of layers, KV heads, head_dim and window of each KV group, in
// the order of groups. The text leaves out page_tokens, slabs and strides, which only determine the
// places of bytes in an engine's pages.
std::string KvKey(const PageLayout& layout);

// Returns the hash of the identity as a tagged record of length-prefixed fields, so that different
// identities never give the same record.
PageHash RootOf(const Identity& identity);

// Returns a root that only the n sequences of one request share (for bypass_prefix). Each request
// of an engine has another `number`. A private root never leaves the process.
PageHash PrivateRoot(const PageHash& root, uint64_t number);

}  // namespace tessera
