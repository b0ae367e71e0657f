// Tables in text files: TSV without quoting, CSV with it. Internal to the room.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

// The rows of a table one by one; cells are views where the file has no quotes.
class TableReader {
 public:
  TableReader(std::string_view text, char separator, bool quotes) : text_(text), separator_(separator), quotes_(quotes) {}
  // False at the end. Blank lines are skipped; "\r\n" ends a line as "\n" does.
  bool next(std::vector<std::string>& cells);
  std::uint64_t line() const { return line_; }  // where the last row began, from 1

 private:
  std::string_view text_;
  char separator_;
  bool quotes_;
  std::size_t at_ = 0;
  std::uint64_t line_ = 0, next_line_ = 1;
};

}  // namespace rhetor
