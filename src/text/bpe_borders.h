// Where no merge can cross: a long word falls into stretches that are merged by themselves. Internal to the room.
#pragma once

#include <vector>

#include "text/bpe_merge.h"

namespace rhetor {

// A word is spelled with initial symbols (characters, byte tokens, the unknown token), and every symbol that merging makes covers a run of
// them. For each token we know all initial symbols that such a run can begin and end with, whichever way the token was merged. A merge (l, r)
// then only joins where one of ends(l) meets one of begins(r). Between neighbours u | v that are no such pair of any merge nothing is ever
// joined, so what happens on one side never changes a pair on the other; and as the merges of one side keep their order of rank and place
// among themselves, both sides can be merged alone with the same result.
class MergeBorders {
 public:
  struct Merge { TokenId left, right, result; };
  MergeBorders() = default;
  // `initial`: every id that spelling can give; ids are below `tokens`.
  MergeBorders(std::size_t tokens, const std::vector<TokenId>& initial, const std::vector<Merge>& merges) : crossings_(merges.size() / 4) {
    std::vector<Few> begins(tokens), ends(tokens);
    for (const TokenId id : initial) {
      begins[static_cast<std::size_t>(id)].add(id);
      ends[static_cast<std::size_t>(id)].add(id);
    }
    // Ranks usually list parts before what is made of them: one pass finds all, a second one that there is no more.
    bool changed = true;
    known_ = true;
    for (int pass = 0; pass < 6 && changed && known_; ++pass) {
      changed = false;
      for (const Merge& m : merges) {
        const Few left = begins[static_cast<std::size_t>(m.left)], right = ends[static_cast<std::size_t>(m.right)];
        const Few before = ends[static_cast<std::size_t>(m.left)], after = begins[static_cast<std::size_t>(m.right)];
        if (left.count == 0 || right.count == 0) continue;   // so far nothing gives one of them
        for (int i = 0; i < left.count; ++i) changed |= begins[static_cast<std::size_t>(m.result)].add(left.ids[i]);
        for (int i = 0; i < right.count; ++i) changed |= ends[static_cast<std::size_t>(m.result)].add(right.ids[i]);
        known_ = known_ && !begins[static_cast<std::size_t>(m.result)].full && !ends[static_cast<std::size_t>(m.result)].full;
        for (int i = 0; i < before.count; ++i) {
          for (int k = 0; k < after.count; ++k) {
            crossings_.insert(pair_key(before.ids[i], after.ids[k]), 0);
            if (before.ids[i] != after.ids[k]) joined_.insert(static_cast<std::uint32_t>(after.ids[k]), 0);
          }
        }
      }
    }
    known_ = known_ && !changed;
  }
  bool known() const { return known_; }   // false: some token has too many ends to follow
  bool crossed(TokenId u, TokenId v) const { return crossings_.find(pair_key(u, v)) != FlatTable::kAbsent; }
  // Whether v is never joined to an initial symbol before it but itself.
  bool opens(TokenId v) const { return known_ && joined_.find(static_cast<std::uint32_t>(v)) == FlatTable::kAbsent; }

 private:
  // Nearly every token has one: its text says which. A second one has, say, an unknown token that the merges of its letters give, too.
  struct Few {
    TokenId ids[3];
    std::uint8_t count = 0;
    bool full = false;
    bool add(TokenId id) {
      for (int i = 0; i < count; ++i) {
        if (ids[i] == id) return false;
      }
      full = count == 3;
      if (!full) ids[count++] = id;
      return !full;
    }
  };
  FlatTable crossings_, joined_;
  bool known_ = false;
};

}  // namespace rhetor
