// The chat page: one self-contained HTML document, compiled into the program from chat_page.html.
#pragma once

#include <string_view>

namespace rhetor {

std::string_view chat_page();

}  // namespace rhetor
