#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "server/config/config.h"
#include "server/config/config_rules.h"
#include "server/config/hub_folder.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

absl::Status CheckLater(const char* path, const std::string& value) {
  const ConfigRule* rule = FindConfigRule(path);
  const std::vector<std::string> later = absl::StrSplit(rule->later, '|');
  if (std::find(later.begin(), later.end(), value) == later.end()) return absl::OkStatus();
  std::vector<std::string> now;
  for (absl::string_view word : absl::StrSplit(rule->allowed, '|')) {
    if (std::find(later.begin(), later.end(), word) == later.end()) now.emplace_back(word);
  }
  return absl::UnimplementedError(absl::StrCat(
      path, ": '", value, "' comes in a later release; give one of ", absl::StrJoin(now, ", ")));
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  struct Unit {
    const char* suffix;
    int shift;
  };
  constexpr Unit kUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}, {"", 0}};
  for (const Unit& unit : kUnits) {
    absl::string_view number = text;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    number = absl::StripAsciiWhitespace(number);
    uint64_t whole = 0;
    if (absl::SimpleAtoi(number, &whole) && number[0] != '-' &&
        whole <= (uint64_t{1} << 62) >> unit.shift) {
      return whole << unit.shift;
    }
    double real = 0;
    if (unit.shift > 0 && absl::SimpleAtod(number, &real) && real >= 0 && real < 1e6) {
      return static_cast<uint64_t>(std::ldexp(real, unit.shift));
    }
    break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("is '", text, "'; give bytes, or a number with KiB, MiB, GiB or TiB"));
}

std::string FormatSize(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  std::ostringstream out;
  out.precision(unit == 0 || value == std::floor(value) ? 0 : 1);
  out << std::fixed << value << kUnits[unit];
  return out.str();
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  HostPort result;
  if (colon != absl::string_view::npos && colon > 0 &&
      absl::SimpleAtoi(text.substr(colon + 1), &result.port) && result.port >= 0 &&
      result.port <= 65535) {
    absl::string_view host = text.substr(0, colon);
    const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
    result.host = std::string(host);
    if (!host.empty() && (bracketed || !absl::StrContains(host, ':'))) return result;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("is '", text, "'; give HOST:PORT, e.g. 127.0.0.1:50051 or [::1]:50051"));
}

absl::Status FinishConfig(v1::Config* config) {
  if (config->models().empty()) {
    return absl::InvalidArgumentError("no model to serve; give --model [NAME=]DIR");
  }
  std::set<std::string> names;
  for (v1::ModelConfig& model : *config->mutable_models()) {
    if (model.path().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model '", model.name(), "' has no path; give the folder with its config.json"));
    }
    if (!model.has_name()) model.set_name(DefaultModelName(model.path()));
    ASSIGN_OR_RETURN(*model.mutable_path(), ResolveHubFolder(model.path()));
    if (!names.insert(model.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat("two models are called '", model.name(),
                                                     "'; give one another name: --model NAME=DIR"));
    }
  }
  const v1::EngineConfig& engine = config->engine();
  return CheckLater("engine.device", engine.device());
}

}  // namespace tessera
