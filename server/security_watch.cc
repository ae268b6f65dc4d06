#include "server/security_watch.h"

#include <google/protobuf/util/message_differencer.h>
#include <sys/stat.h>

#include <utility>

#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/node_options.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

using google::protobuf::util::MessageDifferencer;

bool DifferOutsideSecurity(v1::Config a, v1::Config b) {
  a.clear_security();
  b.clear_security();
  return !MessageDifferencer::Equals(a, b);
}

}  // namespace

SecurityWatch::SecurityWatch(const v1::Config& config, ConfigSource source)
    : source_(std::move(source)),
      config_(std::make_unique<v1::Config>(config)),
      files_(TlsFilesOf(config.security())),
      read_(Stamps()),
      seen_(read_) {}

SecurityWatch::~SecurityWatch() = default;

SecurityWatch::Stamp SecurityWatch::StampOf(const std::string& path) {
  struct stat found = {};
  if (path.empty() || stat(path.c_str(), &found) != 0) return {};
  return {found.st_dev, found.st_ino, found.st_size,
          int64_t{found.st_mtim.tv_sec} * 1'000'000'000 + found.st_mtim.tv_nsec};
}

std::vector<SecurityWatch::Stamp> SecurityWatch::Stamps() const {
  std::vector<Stamp> stamps;
  for (const std::string* path :
       {&source_.file, &files_.certificate, &files_.key, &files_.client_ca, &files_.client_crl}) {
    stamps.push_back(StampOf(*path));
  }
  return stamps;
}

SecurityWatch::Changes SecurityWatch::Look(int64_t now_us) {
  if (now_us < next_look_us_) return {};
  next_look_us_ = now_us + kIntervalUs;
  std::vector<Stamp> stamps = Stamps();
  const bool is_settled = stamps == seen_;
  seen_ = std::move(stamps);
  if (!is_settled || seen_ == read_) return {};
  Changes changes;
  const absl::Status status = Read(&changes);
  read_ = Stamps();
  seen_ = read_;
  if (!status.ok()) {
    TLOG_ERROR("the security files have changed, but cannot be used; the old ones stay in use: {}",
               LogText(status.message()));
  }
  return changes;
}

absl::Status SecurityWatch::Read(Changes* changes) {
  v1::Config config = *config_;
  if (!source_.file.empty()) {
    ASSIGN_OR_RETURN(config, source_.read());
    RETURN_IF_ERROR(CheckOptions(config));
    if (DifferOutsideSecurity(config, *config_)) {
      TLOG_WARN("{} has changed outside `security`: the rest counts at the next start",
                source_.file);
    }
  }
  const v1::SecurityConfig& before = config_->security();
  const v1::SecurityConfig& now = config.security();
  if (!before.identities().empty() && now.identities().empty()) {
    return absl::FailedPreconditionError(
        "security.identities is gone, which would let everybody in; restart the server if that is "
        "meant");
  }
  if (before.tls().has_client_ca() && !now.tls().has_client_ca()) {
    return absl::FailedPreconditionError(
        "security.tls.client_ca is gone, which would let clients in without a certificate; restart "
        "the server if that is meant");
  }
  if (!MessageDifferencer::Equals(now, before)) {
    ASSIGN_OR_RETURN(Identities identities, IdentitiesOf(now));
    changes->identities = std::make_shared<const Identities>(std::move(identities));
    TLOG_INFO("{} identities are known now", now.identities_size());
  }
  absl::Status tls = ReadTls(config, changes);
  *config_ = std::move(config);
  return tls;
}

absl::Status SecurityWatch::ReadTls(const v1::Config& config, Changes* changes) {
  const TlsFiles files = TlsFilesOf(config.security());
  if (files.enabled() != files_.enabled()) {
    return absl::FailedPreconditionError(
        "TLS cannot be turned on or off while the server runs; restart it");
  }
  files_ = files;
  if (!files.enabled()) return absl::OkStatus();
  ASSIGN_OR_RETURN(changes->tls, TlsContext::Load(files));
  TLOG_INFO("TLS: new connections get the files as they are now");
  return absl::OkStatus();
}

}  // namespace tessera
