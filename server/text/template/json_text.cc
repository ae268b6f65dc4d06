#include "server/text/template/json_text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

// Builds values from the events of the JSON parser. Working on events makes it possible to check
// the depth, duplicate keys and large numbers.
class ValueBuilder final : public nlohmann::json_sax<nlohmann::ordered_json> {
 public:
  const absl::Status& status() const { return status_; }
  Value TakeResult() { return std::move(result_); }

  bool null() override { return Add(Value::None()); }
  bool boolean(bool value) override { return Add(Value::Bool(value)); }
  bool number_integer(number_integer_t value) override { return Add(Value::Int(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) {
      return Add(Value::BigInt(absl::StrCat(value)));
    }
    return Add(Value::Int(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") != string_t::npos) return Add(Value::Float(value));
    return Add(Value::BigInt(text));
  }
  bool string(string_t& value) override { return Add(Value::String(std::move(value))); }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(size_t) override { return Open(true); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(false); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    open_.back().key = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    constexpr int kOutOfRange = 406;
    const bool is_number = error.id == kOutOfRange;
    return Fail(absl::StrCat(is_number ? "a number beyond 1.8e308" : "not valid JSON", " at byte ",
                             position));
  }

 private:
  struct OpenContainer {
    std::shared_ptr<Dict> dict;  // null for an array
    std::vector<Value> items;
    std::string key;
  };

  bool Fail(const std::string& why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(why);
    return false;
  }

  bool Open(bool is_object) {
    if (open_.size() >= static_cast<size_t>(kMaxValueDepth) - 2) return Fail("nested too deep");
    OpenContainer container;
    if (is_object) container.dict = std::make_shared<Dict>();
    open_.push_back(std::move(container));
    return true;
  }

  bool Close() {
    OpenContainer container = std::move(open_.back());
    open_.pop_back();
    if (container.dict != nullptr) return Add(Value::FromDict(std::move(container.dict)));
    return Add(Value::List(std::move(container.items)));
  }

  bool Add(Value value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else if (open_.back().dict != nullptr) {
      open_.back().dict->Set(Value::String(std::move(open_.back().key)), std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::vector<OpenContainer> open_;
  Value result_;
  absl::Status status_;
};

class JsonWriter final {
 public:
  JsonWriter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}

  std::string TakeText() { return std::move(out_); }

  absl::Status Write(const Value& value, int depth) {
    RETURN_IF_ERROR(budget_.Spend(Budget::kStepCost));
    if (out_.size() > budget_.limits().max_output_bytes) {
      return absl::ResourceExhaustedError("tojson writes too much text");
    }
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return absl::OkStatus();
      case Kind::kBool:
        out_ += value.boolean() ? "true" : "false";
        return absl::OkStatus();
      case Kind::kInt:
        absl::StrAppend(&out_, value.integer());
        return absl::OkStatus();
      case Kind::kBigInt:
        RETURN_IF_ERROR(budget_.Spend(value.text().size()));
        out_ += value.text();
        return absl::OkStatus();
      case Kind::kFloat:
        out_ += FloatText(value.real());
        return absl::OkStatus();
      case Kind::kString:
        return WriteString(value.text());
      case Kind::kList:
      case Kind::kTuple:
        return WriteList(value.items(), depth);
      case Kind::kDict:
        return WriteDict(value.dict(), depth);
      default:
        return Error("Object of type ", value.TypeName(), " is not JSON serializable",
                     value.is_undefined() ? absl::StrCat(" (", value.undefined_reason(), ")") : "");
    }
  }

 private:
  static std::string FloatText(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return FloatRepr(value);
  }

  absl::Status NewLine(int depth) {
    const size_t num_bytes = static_cast<size_t>(depth) * style_.indent.size();
    RETURN_IF_ERROR(budget_.Build(num_bytes));
    out_.push_back('\n');
    for (int i = 0; i < depth; ++i) out_ += style_.indent;
    return absl::OkStatus();
  }

  absl::Status WriteList(const std::vector<Value>& items, int depth) {
    out_.push_back('[');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i != 0) out_ += style_.item_separator;
      if (style_.is_indented) RETURN_IF_ERROR(NewLine(depth + 1));
      RETURN_IF_ERROR(Write(items[i], depth + 1));
    }
    if (style_.is_indented && !items.empty()) RETURN_IF_ERROR(NewLine(depth));
    out_.push_back(']');
    return absl::OkStatus();
  }

  static absl::StatusOr<std::string> KeyText(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        return key.text();
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return key.boolean() ? "true" : "false";
      case Kind::kInt:
        return absl::StrCat(key.integer());
      case Kind::kBigInt:
        return key.text();
      case Kind::kFloat:
        return FloatText(key.real());
      default:
        return Error("keys must be str, int, float, bool or None, not ", key.TypeName());
    }
  }

  absl::Status WriteDict(const Dict& dict, int depth) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, item] : dict.entries()) {
      ASSIGN_OR_RETURN(std::string text, KeyText(key));
      entries.emplace_back(std::move(text), &item);
    }
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out_.push_back('{');
    bool first = true;
    for (const auto& [key, item] : entries) {
      if (!first) out_ += style_.item_separator;
      first = false;
      if (style_.is_indented) RETURN_IF_ERROR(NewLine(depth + 1));
      RETURN_IF_ERROR(WriteString(key));
      out_ += style_.key_separator;
      RETURN_IF_ERROR(Write(*item, depth + 1));
    }
    if (style_.is_indented && !entries.empty()) RETURN_IF_ERROR(NewLine(depth));
    out_.push_back('}');
    return absl::OkStatus();
  }

  absl::Status WriteString(absl::string_view text) {
    RETURN_IF_ERROR(budget_.Spend(text.size()));
    out_.push_back('"');
    for (size_t position = 0; position < text.size();) {
      const size_t begin = position;
      const char32_t c = NextCodePoint(text, &position);
      if (c >= ' ' && c < 0x7F && c != '"' && c != '\\') {
        out_.push_back(static_cast<char>(c));
      } else if (c < 0x20 || c == '"' || c == '\\' || style_.ensure_ascii) {
        WriteEscaped(c);
      } else {
        out_.append(text.data() + begin, position - begin);
      }
    }
    out_.push_back('"');
    return absl::OkStatus();
  }

  void WriteEscaped(char32_t c) {
    static constexpr absl::string_view kShort = "\"\"\\\\\nn\rr\tt\bb\ff";
    for (size_t i = 0; i < kShort.size(); i += 2) {
      if (c != static_cast<char32_t>(kShort[i])) continue;
      out_.push_back('\\');
      out_.push_back(kShort[i + 1]);
      return;
    }
    const auto write_unit = [&](uint32_t unit) {
      absl::StrAppend(&out_, "\\u", absl::Hex(unit, absl::kZeroPad4));
    };
    if (c <= 0xFFFF) {
      write_unit(static_cast<uint32_t>(c));
    } else {
      const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
      write_unit(0xD800 + (rest >> 10));
      write_unit(0xDC00 + (rest & 0x3FF));
    }
  }

  Budget& budget_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

absl::StatusOr<Value> ParseJson(absl::string_view what, absl::string_view text) {
  ValueBuilder builder;
  const bool parsed = nlohmann::ordered_json::sax_parse(text.begin(), text.end(), &builder);
  if (!parsed || !builder.status().ok()) return Error(what, ": ", builder.status().message());
  return builder.TakeResult();
}

absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style) {
  JsonWriter writer(budget, style);
  RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.TakeText();
}

}  // namespace tessera::jinja
