#include "measure/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

BenchResult two_rows() {
  BenchResult result{.what = "things", .machine = {{"cpu", "abacus"}, {"threads", "2"}}, .rows = {}};
  result.rows.push_back({"short", {{"latency_ms", 1234.56}, {"runs", std::int64_t{7}}, {"kernel", std::string("a")}}});
  result.rows.push_back(
      {"a rather long name", {{"latency_ms", 0.25}, {"runs", std::int64_t{1234567}}, {"kernel", std::string("cpu.long")}}});
  return result;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    out.push_back(text.substr(at, end - at));
  return out;
}

TEST(Result, TableIsAligned) {
  const std::vector<std::string> lines = lines_of(to_table(two_rows()));
  ASSERT_EQ(lines.size(), 6u);   // what, two facts of the machine, header, two rows
  EXPECT_EQ(lines[0], "things");
  EXPECT_EQ(lines[1], "  cpu: abacus");
  EXPECT_EQ(lines[3].size(), lines[4].size());
  EXPECT_EQ(lines[4].size(), lines[5].size());
  EXPECT_THAT(lines[4], HasSubstr(" 1235 "));
  EXPECT_THAT(lines[5], HasSubstr(" 0.2500 "));
  EXPECT_THAT(lines[5], HasSubstr(" 1234567 "));
  // A right-aligned cell ends where its heading ends.
  EXPECT_EQ(lines[3].find("latency_ms") + 10, lines[4].find("1235") + 4);
}

TEST(Result, TableShowsSmallAndOddNumbers) {
  BenchResult result = two_rows();
  result.rows[0].cells[0].second = 1.5e-5;
  result.rows[1].cells[0].second = std::nan("");
  const std::string table = to_table(result);
  EXPECT_THAT(table, HasSubstr("1.5e-05"));
  EXPECT_THAT(table, HasSubstr("nan"));
  result.rows.clear();
  EXPECT_THAT(to_table(result), HasSubstr("nothing matched"));
}

TEST(Result, JsonKeepsTypesAndOrder) {
  const std::string text = to_json(two_rows());
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["what"], "things");
  EXPECT_EQ(json["machine"]["cpu"], "abacus");
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_TRUE(json["rows"][0]["latency_ms"].is_number_float());
  EXPECT_EQ(json["rows"][1]["runs"], 1234567);
  EXPECT_TRUE(json["rows"][1]["runs"].is_number_integer());
  EXPECT_EQ(json["rows"][1]["kernel"], "cpu.long");
  EXPECT_FALSE(json.contains("latency_ms"));   // two rows: neither is the result
  EXPECT_LT(text.find("latency_ms"), text.find("runs"));
}

TEST(Result, JsonOfOneRowStandsAtTheTop) {
  BenchResult result = two_rows();
  result.rows.resize(1);
  const auto json = nlohmann::json::parse(to_json(result));
  EXPECT_EQ(json["latency_ms"], 1234.56);
  EXPECT_EQ(json["name"], "short");
  EXPECT_EQ(json["rows"].size(), 1u);
}

TEST(Result, JsonIsWrittenWhateverIsInIt) {
  BenchResult result = two_rows();
  result.what = "\xFF not text \"";
  result.rows[0].cells[0].second = std::numeric_limits<double>::infinity();
  const auto json = nlohmann::json::parse(to_json(result));
  EXPECT_TRUE(json["rows"][0]["latency_ms"].is_null());
  result.rows.clear();
  EXPECT_TRUE(nlohmann::json::parse(to_json(result))["rows"].is_array());
}

TEST(Result, SaysWhereItWasMeasured) {
  const BenchResult result = new_result("x", 3);
  EXPECT_EQ(result.machine.at("threads"), "3");
  for (const char* key : {"cpu", "date", "version"}) EXPECT_THAT(result.machine.at(key), Not(""));
}

}  // namespace
}  // namespace rhetor
