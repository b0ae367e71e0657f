// What the compiler did and why, for people: the graph before and after the passes, the kernel chosen for every node with the
// candidates that refused and their reasons, costs, and the memory map as a picture.
#pragma once

#include <string>
#include <vector>

#include "runtime/executable.h"

namespace rhetor {

struct Explanation {
  std::string text;   // for a terminal
  std::string html;   // one self-contained page with the memory map as SVG
};

// `before` is the graph as the model wrote it; null where it is not known (an executable from a plan file).
struct ExplainPart {
  std::string title;
  const Executable* executable;
  const Graph* before = nullptr;
};
// One report over several executables (those of a plan file).
Explanation explain(const std::vector<ExplainPart>& parts);
inline Explanation explain(const std::string& title, const Executable& executable, const Graph* before = nullptr) {
  return explain({{title, &executable, before}});
}

}  // namespace rhetor
