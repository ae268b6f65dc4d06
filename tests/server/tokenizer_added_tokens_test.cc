// Tests of how added tokens split a text when their flags interact.
#include "server/text/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tessera {
namespace {

// Splits a text and formats the parts as "3[0,5) -[5,7)": ids and ranges; - is text between tokens.
std::string Split(const std::vector<AddedToken>& tokens, const std::string& text) {
  std::vector<std::string> patterns;
  patterns.reserve(tokens.size());
  for (const AddedToken& token : tokens) patterns.push_back(token.content);
  std::string parts;
  for (const AddedTokenSplitter::Part& part : AddedTokenSplitter(tokens, patterns).Split(text)) {
    if (!parts.empty()) parts += " ";
    parts += part.id < 0 ? "-" : std::to_string(part.id);
    parts += "[" + std::to_string(part.begin) + "," + std::to_string(part.end) + ")";
  }
  return parts;
}

AddedToken TokenOf(int64_t id, const std::string& content, bool lstrip, bool rstrip) {
  AddedToken token;
  token.id = id;
  token.content = content;
  token.lstrip = lstrip;
  token.rstrip = rstrip;
  return token;
}

TEST(AddedTokens, SpaceThatTwoTokensStripIsOfTheFirst) {
  const std::vector<AddedToken> tokens = {TokenOf(1, "<r>", false, true),
                                          TokenOf(2, "<l>", true, false),
                                          TokenOf(3, "<p>", false, false)};
  EXPECT_EQ(Split(tokens, "<r>  <l>"), "1[0,5) 2[5,8)");
  EXPECT_EQ(Split(tokens, "<p>  <l>"), "3[0,3) 2[3,8)");
  EXPECT_EQ(Split(tokens, "<r>  <p>"), "1[0,5) 3[5,8)");
  EXPECT_EQ(Split(tokens, "<l>  <r>"), "2[0,3) -[3,5) 1[5,8)");
  EXPECT_EQ(Split(tokens, "a <l> b"), "-[0,1) 2[1,5) -[5,7)");
}

}  // namespace
}  // namespace tessera
