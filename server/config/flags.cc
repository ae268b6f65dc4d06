#include "server/config/flags.h"

#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/nearest_word.h"
#include "kernels/base/status.h"
#include "server/config/config.h"
#include "server/config/config_rules.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

struct Flag {
  std::string name;
  std::string value;
};

// The parsed command line before it is applied to the configuration.
struct Parsed {
  Action action = Action::kServe;
  std::optional<std::string> file;
  std::vector<Flag> sets;  // values of --set; Flag::name is the dotted path
  std::vector<std::string> models;
  std::vector<Flag> flags;  // other flags; Flag::name is the flag
};

const ConfigFlag* FindFlag(const std::string& name) {
  for (const ConfigFlag& flag : ConfigFlags()) {
    if (name == flag.flag) return &flag;
  }
  return nullptr;
}

// Flags of other servers (vLLM, llama.cpp, Hugging Face's TGI) and the flags that set the same
// here.
struct ForeignFlag {
  const char* name;
  const char* flag;
};
constexpr ForeignFlag kForeignFlags[] = {
    {"--host", "--listen"},
    {"--port", "--listen"},
    {"--ctx-size", "--max-model-len"},
    {"--max-seq-len", "--max-model-len"},
    {"--parallel", "--max-num-seqs"},
    {"--batch-size", "--max-num-batched-tokens"},
    {"--quantization", "--dtype"},
    {"--lora", "--adapters"},
    {"--lora-modules", "--adapters"},
    {"--ssl-certfile", "--tls-cert"},
    {"--ssl-cert-file", "--tls-cert"},
    {"--ssl-keyfile", "--tls-key"},
    {"--ssl-key-file", "--tls-key"},
    {"--ssl-ca-certs", "--tls-client-ca"},
};

std::string FlagText(const ConfigFlag& flag) {
  return flag.value == nullptr ? flag.flag : absl::StrCat(flag.flag, " ", flag.value);
}

absl::Status UnknownFlag(const std::string& name) {
  for (const ForeignFlag& foreign : kForeignFlags) {
    if (name != foreign.name) continue;
    const ConfigFlag& flag = *FindFlag(foreign.flag);
    return absl::InvalidArgumentError(
        absl::StrCat("unknown argument '", name, "'; give ", FlagText(flag), ": ", flag.help));
  }
  if (name == "--api-key") {
    return absl::InvalidArgumentError(
        "unknown argument '--api-key'; make a token with `tessera token new` and put its hash into "
        "security.identities of the --config file");
  }
  std::vector<std::string> known = {"--model", "--config",  "--set",
                                    "--check", "--version", "--help"};
  for (const ConfigFlag& flag : ConfigFlags()) known.emplace_back(flag.flag);
  const std::string nearest = absl::StartsWith(name, "-") ? NearestWord(name, known) : "";
  return absl::InvalidArgumentError(
      absl::StrCat("unknown argument '", name, "'; ",
                   nearest.empty() ? "see tesserad --help"
                                   : absl::StrCat("the nearest known flag is ", nearest)));
}

absl::Status TakeValue(const std::string& name, const std::string& value, Parsed* parsed) {
  if (name == "--config") {
    parsed->file = value;
  } else if (name == "--model") {
    parsed->models.push_back(value);
  } else if (name == "--set") {
    const size_t equals = value.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set ", value, ": give KEY=VALUE, e.g. --set engine.max_num_seqs=8"));
    }
    parsed->sets.push_back({value.substr(0, equals), value.substr(equals + 1)});
  } else {
    parsed->flags.push_back({name, value});
  }
  return absl::OkStatus();
}

absl::StatusOr<Parsed> Parse(const std::vector<std::string>& arguments) {
  Parsed parsed;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (name == "--help" || name == "-h") {
      parsed.action = Action::kHelp;
      return parsed;
    }
    if (name == "--version") {
      parsed.action = Action::kVersion;
      return parsed;
    }
    if (name == "--check") {
      parsed.action = Action::kCheck;
      continue;
    }
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    const ConfigFlag* const flag = FindFlag(name);
    const bool known =
        name == "--config" || name == "--model" || name == "--set" || flag != nullptr;
    if (!known) return UnknownFlag(name);
    if (!value && flag != nullptr && flag->value == nullptr) value = "true";
    if (!value && i + 1 < arguments.size()) value = arguments[++i];
    if (!value) return absl::InvalidArgumentError(absl::StrCat(name, " needs a value"));
    RETURN_IF_ERROR(TakeValue(name, *value, &parsed));
  }
  return parsed;
}

// Adds a model from NAME=DIR or DIR. A '=' after the first '/' belongs to the folder, because a
// name has no '/'.
void AddModel(const std::string& text, v1::Config* config) {
  v1::ModelConfig* model = config->add_models();
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && text.find('/') > equals) {
    model->set_name(text.substr(0, equals));
    model->set_path(text.substr(equals + 1));
  } else {
    model->set_path(text);
  }
}

}  // namespace

absl::StatusOr<Action> ParseFlags(const std::vector<std::string>& arguments, v1::Config* config) {
  ASSIGN_OR_RETURN(const Parsed parsed, Parse(arguments));
  if (parsed.action == Action::kHelp || parsed.action == Action::kVersion) return parsed.action;
  if (parsed.file) RETURN_IF_ERROR(MergeYamlFile(*parsed.file, config));
  for (const Flag& set : parsed.sets) {
    RETURN_IF_ERROR(SetConfigValue("--set", set.name, set.value, config));
  }
  if (!parsed.models.empty()) config->clear_models();
  for (const std::string& model : parsed.models) AddModel(model, config);
  for (const Flag& flag : parsed.flags) {
    RETURN_IF_ERROR(SetConfigValue(flag.name, FindFlag(flag.name)->path, flag.value, config));
  }
  RETURN_IF_ERROR(FinishConfig(config));
  return parsed.action;
}

std::string ConfigFileOf(const std::vector<std::string>& arguments) {
  const absl::StatusOr<Parsed> parsed = Parse(arguments);
  return parsed.ok() ? parsed->file.value_or("") : "";
}

std::string HelpText() {
  std::string text =
      "tesserad serves language models over gRPC.\n\n"
      "  tesserad --model [NAME=]DIR [--model ...] [flags]\n\n";
  const auto line = [&text](const std::string& flag, const std::string& help) {
    absl::StrAppendFormat(&text, "  %-34s %s\n", flag, help);
  };
  line("--model [NAME=]DIR", "a Hugging Face folder to serve; repeat it for more models");
  line("--config FILE", "YAML of the messages in proto/tessera/v1/config.proto");
  line("--set KEY=VALUE", "one configuration value, e.g. engine.max_num_seqs=8");
  for (const ConfigFlag& flag : ConfigFlags()) {
    line(FlagText(flag), flag.help);
  }
  line("--check", "check configuration and models, print the plan of memory, exit");
  line("--version", "print the version, exit");
  line("--help", "print this, exit");
  return text +
         "\nSizes take KiB, MiB, GiB. SIGTERM or SIGINT drains; a second signal cancels the "
         "remaining calls.\n"
         "Exit status: 0 served and ended, 2 wrong configuration or model, 1 anything else.\n";
}

}  // namespace tessera
