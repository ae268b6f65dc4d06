// Parses arbitrary bytes as a chat template and renders it with a fixed conversation.
#include <cstddef>
#include <cstdint>
#include <string>

#include "server/text/template/chat_template.h"

namespace {

const tessera::ChatTemplateInput& Conversation() {
  static const auto* const input = [] {
    auto* made = new tessera::ChatTemplateInput;
    made->messages_json =
        R"([{"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Gr\u00fc\u00dfe \ud83d\ude00\n there ", "name": "x"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function":
             {"name": "f", "arguments": {"a": [1, 2.5, null, true], "b": {}, "c": 18446744073709551616}}}]}])";
    made->tools_json = R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])";
    made->special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    made->now = absl::UnixEpoch();
    return made;
  }();
  return *input;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = tessera::ChatTemplate::Parse(source);
  if (!parsed.ok()) return 0;
  tessera::jinja::RenderLimits limits;
  limits.max_output_bytes = size_t{1} << 20;
  limits.max_built_bytes = size_t{16} << 20;
  limits.max_work = int64_t{1} << 25;
  limits.max_time = absl::InfiniteDuration();  // the same result on every machine
  (void)(*parsed)->Render(Conversation(), limits);
  return 0;
}
