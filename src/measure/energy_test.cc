#include "measure/energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "measure/bench.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;

TEST(Energy, IsTheCountersDifferenceARun) {
  double joules = 1000;
  int runs = 0;
  const double one = joules_a_run([&] { return joules; }, 0.1, [&] { joules += 3, ++runs; }, 1);
  EXPECT_EQ(runs, 10);
  EXPECT_DOUBLE_EQ(one, 3);
  EXPECT_DOUBLE_EQ(joules_a_run([&] { return joules; }, 50, [&] { joules += 7; }, 1), 7);   // one run at least
}

TEST(Energy, WithoutTheLibraryThereIsANote) {
  std::string note;
  EXPECT_FALSE(energy_counter("0000:00:00.0", note, "libno-such-library.so.1"));
  EXPECT_THAT(note, HasSubstr("libno-such-library.so.1 was not found"));
}

TEST(Energy, WhatIsNotKnownIsNullInJson) {
  BenchResult result;
  result.rows.push_back({"m", {{"joules_per_item", nullptr}, {"energy_note", "none"}}});
  EXPECT_THAT(to_json(result), HasSubstr("\"joules_per_item\": null"));
  EXPECT_THAT(to_table(result), HasSubstr("-"));
}

}  // namespace
}  // namespace rhetor
