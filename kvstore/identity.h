// The identity of KV: everything that the K and V of a token depend on besides the tokens up to it,
// and whom they may be shared with. Equal identities and equal tokens mean equal bytes. The hash of
// an identity is the root of the names in page_hash.h. No other file makes a root.
//
// An identity has two levels, which differ in the adapter only:
//   inside the process  a request is admitted before its adapter's files are read, so `adapter` is
//                       the key of the adapter's version: name, folder, and the inode, time and
//                       size of its files (ResolvedAdapter::key). Page names use this level.
//   outside             `adapter` is the hash of the adapter's content: tensors, ranks, scales, and
//                       the recipe of a blend (AdapterRegistry::ContentName). A file that was
//                       touched, copied or registered under another name has the same hash. Run
//                       names use this level; the hash is known once the adapter has been read.
// Whatever differs between two engines and does not change bytes is left out: names and folders of
// models, page_tokens, slabs, other models in the pool, threads.
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/step/page_layout.h"
#include "kvstore/page_hash.h"

namespace tessera {

// What KV bytes depend on in a loaded model.
struct ModelIdentity {
  std::string weights;   // hash of the content of all weights
  std::string spec;      // hash of the resulting ModelSpec: rope, eps, windows, ...
  std::string numerics;  // formats, and a tag of the bits that this build computes on this machine
};

struct Identity {
  std::string deployment_secret;
  ModelIdentity model;
  std::string kv;         // KvKey()
  std::string adapter;    // empty: the base model; else see the two levels above
  std::string kv_policy;  // empty: exact
  std::string tenant;
  std::string salt;  // the request's own
};

// Names the KV groups in their order: dtype, layers, KV heads, head_dim and window of each group.
// Leaves out page_tokens, slabs and strides, which only say where bytes lie in an engine's pages.
std::string KvKey(const PageLayout& layout);

// The hash of the identity as a tagged, length-prefixed record: no two fields can collide.
PageHash RootOf(const Identity& identity);

// A root that only the copies of one request share (bypass_prefix). `number` tells the requests of
// an engine apart. Such a root never leaves the process.
PageHash PrivateRoot(const PageHash& root, uint64_t number);

}  // namespace tessera
