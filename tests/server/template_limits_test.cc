// Tests of hostile templates and conversations: each rendering ends soon, with an error that names
// the line and the reason.
#include <time.h>

#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/template/chat_template.h"
#include "server/text/template/value.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A generous limit for a loaded machine and the sanitizers.
constexpr std::chrono::seconds kSoon{60};

// Limits that are small enough for quick runs under the sanitizers.
jinja::RenderLimits SmallLimits() {
  jinja::RenderLimits limits;
  limits.max_output_bytes = size_t{4} << 20;
  limits.max_built_bytes = size_t{64} << 20;
  limits.max_work = int64_t{1} << 27;
  limits.max_time = absl::InfiniteDuration();
  return limits;
}

absl::StatusOr<std::string> RenderSource(const std::string& source, const std::string& extra = "{}",
                                         const jinja::RenderLimits& limits = SmallLimits()) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  ChatTemplateInput input;
  input.messages_json = R"([{"role": "user", "content": "Hi"}])";
  input.extra_args_json = extra;
  return (*parsed)->Render(input, limits);
}

std::string ErrorOf(const std::string& source, const std::string& extra = "{}") {
  const auto begin = std::chrono::steady_clock::now();
  const absl::StatusOr<std::string> text = RenderSource(source, extra);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kSoon) << source.substr(0, 200);
  return text.ok() ? "no error" : std::string(text.status().message());
}

std::string Repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(TemplateLimits, DeepExpressionsAreRefused) {
  for (const char* open : {"(", "[", "{'a':", "not ", "-", "x if y else ", "f(", "x["}) {
    EXPECT_THAT(ErrorOf("{{ " + Repeated(open, 20000)), HasSubstr("too deep")) << open;
  }
  for (const char* chain : {" + 1", ".a", "[0]", "|upper", "()", " or 1", " and 1"}) {
    EXPECT_THAT(ErrorOf("{{ 1" + Repeated(chain, 20000) + " }}"), HasSubstr("nests too deep"))
        << chain;
  }
  EXPECT_THAT(ErrorOf("{% set " + Repeated("(", 20000)), HasSubstr("too deep"));
}

TEST(TemplateLimits, WideExpressionsAreFine) {
  const absl::StatusOr<std::string> text = RenderSource(
      "{{ [" + Repeated("1,", 10000) + "]|length }}{{ 'a'" + Repeated("~'a'", 5000) + " }}");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 5u + 5001u);
}

TEST(TemplateLimits, DeepBlocksAreRefused) {
  EXPECT_THAT(ErrorOf(Repeated("{% if 1 %}", 20000)), HasSubstr("blocks nest too deep"));
  EXPECT_THAT(ErrorOf(Repeated("{% for x in y %}", 20000)), HasSubstr("blocks nest too deep"));
}

TEST(TemplateLimits, MacrosThatCallThemselvesEnd) {
  EXPECT_THAT(ErrorOf("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), HasSubstr("too deep"));
  EXPECT_THAT(ErrorOf("{% macro f() %}{{ caller is defined }}{% for i in [1] %}{% call f() %}{{ "
                      "caller }}{% endcall %}{% endfor %}"
                      "{% endmacro %}{{ f() }}"),
              HasSubstr("too deep"));
  EXPECT_THAT(ErrorOf("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
              HasSubstr("too deep"));
  // Each level calls the macro twice. The limit of work or of depth ends the rendering.
  EXPECT_THAT(ErrorOf("{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
                      "{% endmacro %}{{ f(60) }}"),
              HasSubstr("works too long"));
}

TEST(TemplateLimits, RecursionOfUsualDepthWorks) {
  const absl::StatusOr<std::string> text = RenderSource(
      "{% macro f(n) %}{% if n > 0 %}{{ 'x' + f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, std::string(40, 'x'));
}

TEST(TemplateLimits, LongLoopsEnd) {
  EXPECT_THAT(
      ErrorOf("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"),
      testing::AnyOf(HasSubstr("works too long"), HasSubstr("builds too much")));
  EXPECT_THAT(ErrorOf("{{ range(100001) }}"), HasSubstr("Range too big"));
  EXPECT_THAT(ErrorOf("{{ range(-9223372036854775807, 9223372036854775807) }}"),
              HasSubstr("Range too big"));
}

absl::Duration ThreadTime() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

TEST(TemplateLimits, ProcessorTimeIsBounded) {
  const std::string loops = "{% for a in range(100000) %}{% for b in range(100000) %}";
  const std::string end = "{% endfor %}{% endfor %}";
  for (const char* body :
       {"", "{{ b * 2 }}", "{% set c = d[k] %}", "{% set c = k in d %}", "{% set c = {k: 1} %}",
        "{% set c = dict([[k, 1]]) %}", "{% set c = d.get(k) %}", "{% set c = d == e %}",
        "{% set c = [k, k]|unique|list %}", "{% set c = ns.x %}"}) {
    const std::string source =
        absl::StrCat("{% set ns = namespace(d) %}{% set k = 'k' * 30000000 %}{% set e = dict(d) %}",
                     loops, body, end);
    std::string extra = "{\"d\": {";
    for (int i = 0; i < 20; ++i) absl::StrAppend(&extra, i == 0 ? "" : ",", "\"", i, "\": ", i);
    jinja::RenderLimits limits;
    EXPECT_EQ(limits.max_time, absl::Milliseconds(250));
    limits.max_time = absl::Milliseconds(50);
    const absl::Duration begin = ThreadTime();
    const absl::Status status = RenderSource(source, extra + "}}", limits).status();
    EXPECT_LT(ThreadTime() - begin, absl::Seconds(2)) << body;
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << body << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than 50 ms of processor time"));
  }
}

TEST(TemplateLimits, TheTimeIsTheCallers) {
  jinja::RenderLimits limits = SmallLimits();
  limits.max_time = absl::ZeroDuration();
  const std::string source = "{% for i in range(10000) %}{% endfor %}";
  EXPECT_EQ(RenderSource(source, "{}", limits).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  limits.max_time = absl::Minutes(5);
  EXPECT_EQ(RenderSource(source, "{}", limits).value_or("an error"), "");
}

TEST(TemplateLimits, BigTextsEnd) {
  const std::string grow = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(100) %}";
  EXPECT_THAT(ErrorOf(grow + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"),
              HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf(grow + "{% set ns.x = ns.x|replace('a', 'aaaaaaaa') %}{% endfor %}"),
              HasSubstr("too"));
  EXPECT_THAT(ErrorOf("{{ 'a' * 9223372036854775807 }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ [1] * 9223372036854775807 }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ 'a'|center(9223372036854775807) }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ 'a'|indent(9223372036854775807) }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ [1]|tojson(indent=9223372036854775807) }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ [1]|batch(9223372036854775807, 0)|list }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ [1]|slice(9223372036854775807)|list }}"), HasSubstr("too much text"));
  EXPECT_THAT(ErrorOf("{{ '%999999999999d' % 1 }}"), HasSubstr("exceeds"));
  EXPECT_THAT(ErrorOf("{{ '{:99999999999}'.format(1) }}"), HasSubstr("exceeds"));
  EXPECT_THAT(ErrorOf("{% for i in range(100000) %}{{ 'a' * 100 }}{% endfor %}"),
              HasSubstr("prints too much text"));
  EXPECT_THAT(ErrorOf("{{ strftime_now('%9999999Y') }}"), HasSubstr("too long"));
}

TEST(TemplateLimits, ValuesThatShareTheirPartsEnd) {
  // The value shares its parts and has 2^90 leaves when it is printed, compared, or written as
  // JSON.
  const std::string grow =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(90) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  for (const char* use : {"{{ ns.x }}", "{{ ns.x == ns.y }}", "{{ ns.x|tojson }}",
                          "{{ ns.x < ns.y }}", "{{ ns.x in [ns.y] }}"}) {
    EXPECT_THAT(ErrorOf(grow + use), HasSubstr("too")) << use;
  }
}

TEST(TemplateLimits, ValuesMayBeAsDeepAsTheLimitSays) {
  const auto nested = [](int depth) {
    return absl::StrCat("{% set ns = namespace(x=[]) %}{% for i in range(", depth - 1,
                        ") %}{% set ns.x = [ns.x] %}{% endfor %}ok");
  };
  EXPECT_EQ(RenderSource(nested(jinja::kMaxValueDepth)).value_or("an error"), "ok");
  EXPECT_THAT(ErrorOf(nested(jinja::kMaxValueDepth + 1)), HasSubstr("nests deeper than 100"));
}

TEST(TemplateLimits, DeepValuesAreRefused) {
  EXPECT_THAT(ErrorOf("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = "
                      "[ns.x] %}{% endfor %}"),
              HasSubstr("nests deeper"));
  EXPECT_THAT(ErrorOf("{{ x }}", "{\"x\": " + Repeated("[", 100000) + Repeated("]", 100000) + "}"),
              HasSubstr("nested too deep"));
}

// The arguments of a tool call are a string that contains JSON; its nesting has a separate limit.
TEST(TemplateLimits, DeepArgumentsOfToolCallsStayText) {
  const auto render = [](const std::string& arguments) {
    ChatMessage message;
    message.role = "assistant";
    const std::string quoted = absl::StrReplaceAll(arguments, {{"\"", "\\\""}});
    message.tool_calls_json =
        absl::StrCat(R"([{"function": {"name": "f", "arguments": ")", quoted, "\"}}]");
    message.parse_tool_arguments = true;
    const absl::StatusOr<std::string> messages = MessagesToJson({message});
    if (!messages.ok()) return std::string(messages.status().message());
    ChatTemplateInput input;
    input.messages_json = *messages;
    const auto parsed = ChatTemplate::Parse(
        "{% set a = messages[0].tool_calls[0].function.arguments %}"
        "{{ 'text' if a is string else a.a }}");
    const absl::StatusOr<std::string> text = (*parsed)->Render(input, SmallLimits());
    return text.ok() ? *text : std::string(text.status().message());
  };
  EXPECT_EQ(render(R"({"a": 7})"), "7");
  EXPECT_EQ(render("{\"a\": " + Repeated("[", 300'000) + Repeated("]", 300'000) + "}"), "text");
  EXPECT_EQ(render(Repeated("{\"a\":", 300'000) + "1" + Repeated("}", 300'000)), "text");
}

TEST(TemplateLimits, CyclesThroughNamespacesAreFreed) {
  // If a cycle were not freed, the build with the address sanitizer would report a leak and this
  // test would fail.
  const absl::StatusOr<std::string> text = RenderSource(
      "{% set ns = namespace() %}{% set ns.self = [ns] %}{% set ns.f = ns.self %}"
      "{% macro m() %}{{ ns }}{% endmacro %}{% set ns.m = m %}"
      "{% for x in [1] %}{% set ns.loop = loop %}{% macro k() %}{% endmacro %}{% set ns.k = k %}"
      "{{ loop.changed(loop, ns) }}{% endfor %}"
      "{% set c = cycler(ns) %}{% set ns.c = c %}ok");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "Trueok");
  EXPECT_THAT(ErrorOf("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}"),
              HasSubstr("too deep"));
  // A chain of namespaces that is much longer than the possible depth of the stack.
  EXPECT_EQ(ErrorOf("{% set ns = namespace(x=0) %}{% for i in range(100000) %}"
                    "{% set ns.x = namespace(x=ns.x) %}{% endfor %}"),
            "no error");
}

TEST(TemplateLimits, SearchesAreLinear) {
  const std::string extra = absl::StrCat("{\"a\": \"", std::string(400000, 'a'), "\", \"b\": \"",
                                         std::string(200000, 'a'), "b\"}");
  for (const char* use : {"b in a", "a.find(b)", "a.rfind(b)", "a.count(b)", "a.replace(b, '')",
                          "a.split(b)|length", "a.rsplit(b)|length", "a.partition(b)|length",
                          "a.strip(b)|length", "a|replace(b, '')|length"}) {
    EXPECT_EQ(ErrorOf(absl::StrCat("{% set x = ", use, " %}"), extra), "no error") << use;
  }
}

TEST(TemplateLimits, IntegersDoNotWrap) {
  for (const char* use :
       {"9223372036854775807 + 1", "-9223372036854775807 - 2", "9223372036854775807 * 2", "2 ** 63",
        "3 ** 9223372036854775807", "9223372036854775808", "-(-9223372036854775807 - 1)",
        "(-9223372036854775807 - 1) // -1", "(-9223372036854775807 - 1)|abs", "1e30|int",
        "-5000000000000000000 * 2"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("{{ ", use, " }}")), HasSubstr("exceeds 64 bits")) << use;
  }
  EXPECT_EQ(*RenderSource("{{ (-9223372036854775807 - 1) % -1 }}{{ 0 ** 9223372036854775807 }}"
                          "{{ (-1) ** 9223372036854775807 }}"),
            "00-1");
}

TEST(TemplateLimits, IntegersBeyond64BitsAreNotComputedWith) {
  const std::string extra = R"({"x": 18446744073709551615, "y": -99999999999999999999999})";
  for (const char* use : {"x + 1", "1.0 * x", "-x", "x % 2", "range(x)", "'%x' % x",
                          "y | round(-1)", "'{:,}'.format(x)", "'a' * x"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("{{ ", use, " }}"), extra), HasSubstr("64 bits")) << use;
  }
  EXPECT_EQ(
      *RenderSource("{{ x }} {{ [y] }} {{ x|string }} {{ {x: y}|tojson }} {{ '%d' % x }} "
                    "{{ '{:>22d}'.format(x) }} {{ x|int }} {{ +x }} {{ y|abs }} {{ x|round }}",
                    extra),
      "18446744073709551615 [-99999999999999999999999] 18446744073709551615 "
      "{\"18446744073709551615\": -99999999999999999999999} 18446744073709551615 "
      "  18446744073709551615 18446744073709551615 18446744073709551615 "
      "99999999999999999999999 18446744073709551615");
  EXPECT_EQ(*RenderSource("{{ x is integer }}{{ x is number }}{{ x is float }}{{ x is string }}"
                          "{{ x > 5 }}{{ y < x }}{{ x < y }}{{ x == x }}{{ x == y }}{{ x == 7 }}"
                          "{{ x in [x] }}{{ 1e30 > x }}{{ 'a' if x }}{{ y > y }}{{ x|float }}",
                          extra),
            "TrueTrueFalseFalseTrueTrueFalseTrueFalseFalseTrueTrueaFalse1.8446744073709552e+19");
  const std::string longest(308, '7');
  EXPECT_EQ(*RenderSource("{{ x }}", absl::StrCat("{\"x\": ", longest, "}")), longest);
  EXPECT_THAT(ErrorOf("{{ x }}", absl::StrCat("{\"x\": ", longest, "77}")),
              HasSubstr("a number beyond 1.8e308"));
}

TEST(TemplateLimits, ErrorsNameTheLine) {
  EXPECT_THAT(ErrorOf("a\nb\n{{ zzz.x }}"),
              StartsWith("chat template: line 3: 'zzz' is undefined"));
  EXPECT_THAT(ErrorOf("a\n\n{% if %}"), StartsWith("chat template: line 3: "));
  EXPECT_THAT(ErrorOf("{#\n\n#}\n{{ raise_exception('roles must alternate') }}"),
              StartsWith("chat template: line 4: roles must alternate"));
  EXPECT_THAT(ErrorOf("{% macro f() %}\n{{ 1 + 'a' }}\n{% endmacro %}\n\n{{ f() }}"),
              HasSubstr("line 2"));
}

TEST(TemplateLimits, BadInputIsNamed) {
  EXPECT_THAT(ErrorOf("\xff\xfe"), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(ErrorOf("{{ '\\ud800' }}"), HasSubstr("names no character"));
  EXPECT_THAT(ErrorOf("x", "{"), HasSubstr("template arguments: not valid JSON"));
  EXPECT_THAT(ErrorOf("x", "[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(ErrorOf("x", "{\"a\": \"\xff\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{% include 'a' %}"), HasSubstr("'include' is not supported"));
  ChatTemplateInput input;
  input.messages_json = "[}";
  EXPECT_THAT(std::string((*ChatTemplate::Parse("x"))->Render(input).status().message()),
              HasSubstr("messages: not valid JSON"));
}

}  // namespace
}  // namespace tessera
