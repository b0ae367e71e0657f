// The small parts of the service: metrics, keys, log lines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "generate/test_models.h"
#include "serve/access_log.h"
#include "serve/api_keys.h"
#include "serve/metrics.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Metrics, WritesPrometheusText) {
  Metrics metrics;
  metrics.counter("a_total", "Help with \\ and\nline.", {{"model", "x\"y\\z\n"}}).add(3);
  metrics.counter("a_total", "", {{"model", "x\"y\\z\n"}}).add();
  Histogram& h = metrics.histogram("h_seconds", "H.", {0.1, 1});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) h.observe(value);
  metrics.gauge("g", "G.", [] { return 2.5; });
  EXPECT_EQ(metrics.text(),
            "# HELP a_total Help with \\\\ and\\nline.\n# TYPE a_total counter\na_total{model=\"x\\\"y\\\\z\\n\"} 4\n"
            "# HELP g G.\n# TYPE g gauge\ng 2.5\n"
            "# HELP h_seconds H.\n# TYPE h_seconds histogram\n"
            "h_seconds_bucket{le=\"0.1\"} 2\nh_seconds_bucket{le=\"1\"} 3\nh_seconds_bucket{le=\"+Inf\"} 4\nh_seconds_sum "
            "7.65\nh_seconds_count 4\n");
  metrics.add_process();
  EXPECT_THAT(metrics.text(), HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(metrics.text(), Not(HasSubstr("process_resident_memory_bytes 0\n")));
}

TEST(ApiKeys, FromFileAndList) {
  testing::ScratchFolder folder;
  const auto path = folder.path() / "keys";
  write_file_atomic(path, "# who may\n\n  first-secret \r\nanna  second-secret\n");
  ApiKeys keys = ApiKeys::from_file(path);
  keys.add(ApiKeys::from_list("third-secret,boris fourth-secret", "RHETOR_API_KEYS"));
  EXPECT_EQ(keys.find("first-secret"), "key 1");
  EXPECT_EQ(keys.find("second-secret"), "anna");
  EXPECT_EQ(keys.find("fourth-secret"), "boris");
  for (const char* wrong : {"", "first-secre", "first-secret ", "first-secretfirst-secret", "anna", "First-secret"})
    EXPECT_FALSE(keys.find(wrong)) << wrong;
  EXPECT_TRUE(ApiKeys().empty());
  const auto refusal = [&](const std::string& text) -> std::string {
    write_file_atomic(path, text);
    try {
      ApiKeys::from_file(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "(accepted)";
  };
  EXPECT_THAT(refusal("# nothing\n"), HasSubstr("holds no API key"));
  EXPECT_THAT(refusal("good-secret\nshort\n"), HasSubstr("line 2, holds a key of 5 characters"));
  EXPECT_THAT(refusal("a b cdefghijkl\n"), HasSubstr("more than a name and a key"));
  EXPECT_THAT(refusal("schl\xc3\xbcssel-lang\n"), HasSubstr("cannot stand in an HTTP header"));
}

TEST(AccessLog, OneLineARequest) {
  const HttpRecord record{.client = "127.0.0.1",
                          .method = "POST",
                          .target = "/v1/x y\"\n",
                          .id = "r1",
                          .note = {.model = "m", .finish = "stop", .key = "anna", .prompt_tokens = 3, .output_tokens = 5},
                          .status = 200,
                          .bytes = 99,
                          .seconds = 0.0123,
                          .cut = true,
                          .slow = true};
  const std::string text = log_text(record, LogFormat::text, 0);
  EXPECT_EQ(text,
            "1970-01-01T00:00:00Z 127.0.0.1 POST /v1/x?y?? 200 99B 12.3ms id=r1 model=m key=anna in=3 out=5 finish=stop "
            "cut=slow-reader");
  const std::string line = log_text(record, LogFormat::json, 0);
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["target"], record.target);
  EXPECT_EQ(json["ms"], 12.3);
  EXPECT_EQ(json["output_tokens"], 5);

  testing::ScratchFolder folder;
  const auto path = folder.path() / "log";
  {
    AccessLog log(LogFormat::json, path.string());
    for (int i = 0; i < 100; ++i) log.log(record);
    EXPECT_EQ(log.dropped(), 0u);
  }
  const std::string file = read_file(path);
  EXPECT_EQ(std::count(file.begin(), file.end(), '\n'), 100);
  EXPECT_THROW(AccessLog(LogFormat::text, (folder.path() / "no" / "log").string()), Error);
}

}  // namespace
}  // namespace rhetor
