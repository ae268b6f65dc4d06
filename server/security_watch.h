// Reads the security part of the configuration again when its files change: the certificate, the
// key, the authorities and lists of clients' certificates, and the identities in the file of
// --config. A change counts when the files have stayed the same for one interval, so that files
// that are replaced one after the other are read together. What cannot be used is logged, and the
// old values stay. Identities do not wait for TLS, so that a token can be revoked while a
// certificate is damaged. No change opens the server: neither all identities nor client_ca can be
// removed while it runs, because a file that is written in part may seem to do so. Owned by the
// node; main's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/door/identities.h"
#include "server/door/tls.h"

namespace tessera {

namespace v1 {
class Config;
}

// How to read the configuration again. Without a file, only the files that it names can change.
struct ConfigSource {
  std::string file;  // of --config; empty: none
  std::function<absl::StatusOr<v1::Config>()> read;
};

class SecurityWatch final {
 public:
  static constexpr int64_t kIntervalUs = 500'000;

  // `config` is what the node has started with.
  SecurityWatch(const v1::Config& config, ConfigSource source);
  ~SecurityWatch();

  // What has changed; null: nothing.
  struct Changes {
    std::shared_ptr<const TlsContext> tls;
    std::shared_ptr<const Identities> identities;
  };
  // Looks at the files if an interval has passed since the last look.
  Changes Look(int64_t now_us);

 private:
  // Which content a path has; all zero: nothing.
  struct Stamp {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = 0;
    int64_t modified_ns = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  static Stamp StampOf(const std::string& path);
  std::vector<Stamp> Stamps() const;
  absl::Status Read(Changes* changes);
  absl::Status ReadTls(const v1::Config& config, Changes* changes);

  const ConfigSource source_;
  std::unique_ptr<v1::Config> config_;  // as it was read last
  TlsFiles files_;
  std::vector<Stamp> read_;  // when the files were read last
  std::vector<Stamp> seen_;  // at the last look
  int64_t next_look_us_ = 0;
};

}  // namespace tessera
